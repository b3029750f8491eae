// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"golang.org/x/sys/unix"
	"os"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/relabel"
	"cloister/sandbox/plan"
)

// admit has a file or folder that is shared with the guest carry a label that the guest's file server may use: it carries
// one, is given one, or is refused. source is the file on the host, which is what is relabelled; shown is what the file
// server sees of it.
func (i *identity) admit(ctx context.Context, source, shown *os.File, t plan.Treatment) error {
	if !i.labels() {
		if t.Sharing != "" && t.Sharing != labels.Keep {
			return fmt.Errorf("%w: %q is to be labelled as %s, and mac = \"none\": leave one of them out", labels.ErrWish, source.Name(), t.Sharing)
		}
		return nil
	}
	treatment, err := i.chosen.Treat(labels.Folder, t.Sharing, t.Label)
	if err != nil {
		return err
	}
	misfit := i.fits(labels.Folder, shown)
	if misfit == nil && t.Sharing == labels.Keep {
		return i.keeps(ctx, shown, source)
	}
	if misfit == nil && t.Sharing == "" {
		return nil
	}
	if !treatment.Relabel {
		return i.keep(labels.Folder, shown, source.Name(), treatment, misfit)
	}
	path, err := pathOf(source)
	if err != nil {
		return err
	}
	if err := i.apply(ctx, relabel.Item{Path: path, Label: treatment.Label, Recursive: true, Remember: treatment.Remember}); err != nil {
		return err
	}
	return i.fits(labels.Folder, shown)
}

// keeps notes a volume that keeps its label, if that is at the sandbox's own pair: after the sandbox's end its tenant alone may be
// given that pair.
func (i *identity) keeps(ctx context.Context, shown, source *os.File) error {
	have, err := lsm.FileLabel(shown)
	if err != nil || have.Range.High.Categories != i.chosen.Level.Categories {
		return err
	}
	path, err := pathOf(source)
	if err != nil {
		return err
	}
	return i.registry.Keep(ctx, i.tenant, i.chosen.Level, path)
}

// admitCopy refuses a file that is copied into the guest if it is another sandbox's. The shim reads it, so the policy decides
// about its type.
func (i *identity) admitCopy(f *os.File) error {
	if !i.labels() {
		return nil
	}
	have, err := lsm.FileLabel(f)
	switch {
	case errors.Is(err, lsm.ErrUnsupported), errors.Is(err, lsm.ErrNoLabel):
		return nil // nobody's in particular
	case err != nil:
		return err
	}
	if level := have.Range.High; !i.chosen.Level.Dominates(level) {
		return fmt.Errorf("%w: %q is at %v, which is another sandbox's: the sandbox is at %v", labels.ErrWish, f.Name(), level, i.chosen.Level)
	}
	return nil
}

// pathOf is the name without links that an open file has now.
func pathOf(f *os.File) (string, error) { return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", f.Fd())) }

// keep is what becomes of a resource that is not to be relabelled: it must carry the label wanted, or just fit.
func (i *identity) keep(r labels.Resource, shown *os.File, source string, t labels.Treatment, misfit error) error {
	want := cmp.Or(t.Label, i.chosen.Rootfs)
	have, err := lsm.FileLabel(shown)
	switch {
	case misfit == nil && (t.Label.IsZero() || have == want):
		return nil
	case misfit == nil && err == nil:
		misfit = fmt.Errorf("%w: %s is labelled %s, want %s", labels.ErrWish, r, have, want)
	}
	return fmt.Errorf("%w: label it once with: chcon -R %s %q, or have it labelled: [[labels.mounts]] in the config", cmp.Or(misfit, err), want, source)
}

// fits holds a file's label against the sandbox's.
func (i *identity) fits(r labels.Resource, f *os.File) error {
	have, err := lsm.FileLabel(f)
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
		f, err := os.OpenFile(d.Path, unix.O_PATH, 0)
		if err != nil {
			return err
		}
		defer f.Close() // O_PATH
		return i.keep(labels.Disk, f, d.Path, treatment, i.fits(labels.Disk, f))
	}
	// One that fits already is not touched: its file system may take no labels, or be read-only.
	if have, err := lsm.PathLabel(d.Path); err == nil && d.MkfsBytes == 0 && i.chosen.Settled(labels.Disk, sharing, treatment.Label, have) {
		return nil
	}
	item := relabel.Item{Path: d.Path, Label: treatment.Label, Remember: treatment.Remember}
	if d.MkfsBytes > 0 {
		item.After = i.chosen.PoweredOff
	}
	return i.apply(ctx, item)
}
