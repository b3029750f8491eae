// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/relabel"
	"cloister/oci"
	"cloister/sandbox/plan"
)

// served is a folder or file that the guest's file server shows.
type served struct {
	shown  string // where the file server sees it
	source string // what it is on the host, which is what is relabelled
	// sharing says how; empty is the root file system's: private, unless its label fits already.
	sharing labels.Sharing
	label   labels.Label // goes with the sharing "label"
}

// volume says how a volume is to be labelled: by annotation, else by the config's nearest folder, else as it is.
func volume(c Labels, m oci.Mount, shown, source string) (served, error) {
	v := served{shown: shown, source: source, sharing: labels.Sharing(m.Sharing)}
	text := m.Label
	if v.sharing == "" {
		v.sharing = labels.Keep
		nearest := -1
		for _, rule := range c.Mounts {
			folder := filepath.Clean(rule.Source)
			if len(folder) > nearest && (folder == source || strings.HasPrefix(source, strings.TrimSuffix(folder, "/")+"/")) {
				nearest, v.sharing, text = len(folder), cmp.Or(rule.Sharing, labels.Keep), rule.Label
			}
		}
	}
	var err error
	if text != "" {
		v.label, err = labels.Parse(text)
	}
	return v, err
}

// admit has what is shared with the guest carry a label that the guest's file server may use: it carries one, is given one,
// or is refused.
func (i *identity) admit(ctx context.Context, s served) error {
	if !i.labels() {
		if s.sharing != "" && s.sharing != labels.Keep {
			return fmt.Errorf("%w: %q is to be labelled as %s, and mac = \"none\": leave one of them out", labels.ErrWish, s.source, s.sharing)
		}
		return nil
	}
	treatment, err := i.chosen.Treat(labels.Folder, s.sharing, s.label)
	if err != nil {
		return err
	}
	misfit := i.fits(labels.Folder, s.shown)
	if misfit == nil && s.sharing == labels.Keep {
		return i.keeps(ctx, s.shown, s.source)
	}
	if misfit == nil && s.sharing == "" {
		return nil
	}
	if !treatment.Relabel {
		return i.keep(labels.Folder, s.shown, s.source, treatment, misfit)
	}
	if err := i.apply(ctx, relabel.Item{Path: s.source, Label: treatment.Label, Recursive: true, Remember: treatment.Remember}); err != nil {
		return err
	}
	return i.fits(labels.Folder, s.shown)
}

// keeps notes a volume that keeps its label, if that is at the sandbox's own pair: after the sandbox's end its tenant alone may be
// given that pair.
func (i *identity) keeps(ctx context.Context, shown, source string) error {
	have, err := lsm.PathLabel(shown)
	if err != nil || have.Range.High.Categories != i.chosen.Level.Categories {
		return err
	}
	return i.registry.Keep(ctx, i.tenant, i.chosen.Level, source)
}

// keep is what becomes of a resource that is not to be relabelled: it must carry the label wanted, or just fit.
func (i *identity) keep(r labels.Resource, shown, source string, t labels.Treatment, misfit error) error {
	want := cmp.Or(t.Label, i.chosen.Rootfs)
	have, err := lsm.PathLabel(shown)
	switch {
	case misfit == nil && (t.Label.IsZero() || have == want):
		return nil
	case misfit == nil && err == nil:
		misfit = fmt.Errorf("%w: %s is labelled %s, want %s", labels.ErrWish, r, have, want)
	}
	return fmt.Errorf("%w: label it once with: chcon -R %s %q, or have it labelled: [[labels.mounts]] in the config", cmp.Or(misfit, err), want, source)
}

// fits holds the label of what is at path against the sandbox's.
func (i *identity) fits(r labels.Resource, path string) error {
	have, err := lsm.PathLabel(path)
	switch {
	case errors.Is(err, lsm.ErrUnsupported), errors.Is(err, lsm.ErrNoLabel):
		return fmt.Errorf("%w: mount its file system with context=%s, or give a folder of one that takes labels", err, i.chosen.Rootfs)
	case err != nil:
		return err
	}
	return i.chosen.Fits(r, have)
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
	if err != nil {
		return err
	}
	if !treatment.Relabel {
		return i.keep(labels.Disk, d.Path, d.Path, treatment, i.fits(labels.Disk, d.Path))
	}
	item := relabel.Item{Path: d.Path, Label: treatment.Label, Remember: treatment.Remember}
	if d.MkfsBytes > 0 {
		item.After = i.chosen.PoweredOff
	}
	return i.apply(ctx, item)
}
