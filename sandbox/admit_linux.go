// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"fmt"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/relabel"
	"cloister/sandbox/plan"
)

// admit has a folder or file that is shared with the guest carry a label that the
// guest's file server may use: it carries one, is given one, or is refused.
func (i *identity) admit(ctx context.Context, path string, sharing labels.Sharing) error {
	if !i.labels() {
		return nil
	}
	have, err := lsm.PathLabel(path)
	if err == nil && i.chosen.Fits(labels.Folder, have) == nil {
		return nil
	}
	treatment, err := i.chosen.Treat(labels.Folder, sharing, labels.Label{})
	if err != nil {
		return err
	}
	if !treatment.Relabel {
		return fmt.Errorf("%w: label it once with: chcon -R %s %q, or let the engine do it (:Z, :z)", i.chosen.Fits(labels.Folder, have), i.chosen.Rootfs, path)
	}
	return i.apply(ctx, relabel.Item{Path: path, Label: treatment.Label, Recursive: true, Remember: treatment.Remember})
}

// disk labels an image or block device before QEMU gets it.
func (i *identity) disk(ctx context.Context, d plan.Disk) error {
	if !i.labels() {
		return nil
	}
	sharing := labels.Private
	if d.ReadOnly {
		sharing = labels.ReadOnly
	}
	treatment, err := i.chosen.Treat(labels.Disk, sharing, labels.Label{})
	if err != nil || !treatment.Relabel {
		return err
	}
	item := relabel.Item{Path: d.Path, Label: treatment.Label, Remember: treatment.Remember}
	if d.MkfsBytes > 0 {
		item.After = i.chosen.PoweredOff
	}
	return i.apply(ctx, item)
}
