// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/relabel"
)

// Admit labels what the sandbox made itself. Of everything else, it takes what fits and relabels
// what may be relabelled. Files are given as descriptors, so the file whose label was read is the
// one that is labelled. A refusal wraps labels.ErrWish or names the file system that takes no
// labels, with a remedy.
func (s *selinux) Admit(ctx context.Context, f File) error {
	switch f.Kind {
	case State:
		return own(f.Host, s.chosen.Run)
	case Share:
		return own(f.Host, s.chosen.Rootfs)
	case Root:
		return own(f.Host, s.chosen.Content) // QEMU may search it, and finds nothing
	case Memory:
		return s.driver.LabelMemory(f.Host, s.chosen.QEMU)
	case Copy:
		return s.admitCopy(f)
	case Disk:
		return s.admitDisk(ctx, f)
	case Folder:
		return s.admitFolder(ctx, f)
	case Template:
		if s.chosen.Template.IsZero() {
			return fmt.Errorf("%q: the types %s have none for shared memory", f.Host.Name(), s.types.Name)
		}
		return lsm.LabelShared(f.Host, s.chosen.Template)
	}
	return fmt.Errorf("%q: kind of file %q is not known", f.Host.Name(), f.Kind)
}

// own labels a file that the sandbox has just made. No journal is needed: the file goes with the
// sandbox.
func own(f *os.File, label labels.Label) error {
	err := lsm.SetFileLabel(f, label)
	if errors.Is(err, lsm.ErrUnsupported) {
		err = fmt.Errorf("%w: put state on a file system that does (tmpfs, ext4, xfs), or mount it with context=%s", err, label)
	}
	return err
}

// admitFolder admits what the file server shows. It compares the label as the server sees it, since
// a mount with context= shows another one than the file has. A new label goes to the host's file.
func (s *selinux) admitFolder(ctx context.Context, f File) error {
	shown := f.Shown
	if shown == nil {
		shown = f.Host
	}
	treatment, err := s.chosen.Treat(labels.Folder, f.Sharing, f.Label)
	if err != nil {
		return err
	}
	misfit := s.fits(labels.Folder, shown)
	if misfit == nil && f.Sharing == labels.Keep {
		return s.noteKept(ctx, shown, f.Host)
	}
	if misfit == nil && f.Sharing == "" {
		return nil
	}
	if !treatment.Relabel {
		return s.keep(labels.Folder, shown, f.Host.Name(), treatment, misfit)
	}
	if err := s.relabel(ctx, relabel.Item{
		File: f.Host, Label: treatment.Label, Recursive: true,
		Remember: treatment.Remember,
	}); err != nil {
		return err
	}
	// Read back: a file system may take the label and show another, as one that is mounted with
	// context= does.
	return s.fits(labels.Folder, shown)
}

// noteKept notes a volume that keeps its label, if that is at the sandbox's own pair: after the
// sandbox's end its tenant alone may be given that pair. Its files stay on the host at that pair,
// and a sandbox of another tenant that drew it could open them.
func (s *selinux) noteKept(ctx context.Context, shown, host *os.File) error {
	have, err := lsm.FileLabel(shown)
	if err != nil || have.Range.High.Categories != s.chosen.Level.Categories {
		return err
	}
	// The path is for carriesPair, which asks later whether the volume still has the pair.
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", host.Fd()))
	if err != nil {
		return err
	}
	return s.registry.Keep(ctx, s.tenant, s.chosen.Level, path)
}

// admitCopy refuses a file that is another sandbox's, and one that not everybody on the host may
// read. An engine labels its own file with the label that it gives the container, which may be at
// another level than the pod's. The bytes of other files would reach this guest by way of the shim,
// whose domain may read nearly all: a pod's author names them by a mount at /etc/hosts.
func (s *selinux) admitCopy(f File) error {
	have, err := lsm.FileLabel(f.Host)
	switch {
	case errors.Is(err, lsm.ErrUnsupported), errors.Is(err, lsm.ErrNoLabel):
		return nil // nobody's in particular
	case err != nil:
		return err
	}
	ours := have.Type == s.chosen.Rootfs.Type || have.Type == s.chosen.Image.Type || have.Type == s.chosen.Run.Type
	engines := !ours && have == f.Label
	if level := have.Range.High; !engines && !s.chosen.Level.Dominates(level) {
		return fmt.Errorf("%w: %q is at %v, which is another sandbox's: the sandbox is at %v", labels.ErrWish,
			f.Host.Name(), level, s.chosen.Level)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Host.Fd()), &st); err != nil {
		return &os.PathError{Op: "stat", Path: f.Host.Name(), Err: err}
	}
	if !ours && !engines && st.Mode&unix.S_IROTH == 0 {
		return fmt.Errorf("%w: %q is %s with mode %#o, and its copy would show it to the guest: mount it elsewhere, as a volume",
			labels.ErrWish, f.Host.Name(), have, st.Mode&0o777)
	}
	return nil
}

// admitDisk admits a disk. A read-only disk may have many readers; a writable one is this sandbox's
// alone.
func (s *selinux) admitDisk(ctx context.Context, f File) error {
	sharing := labels.Private
	if f.ReadOnly {
		sharing = labels.ReadOnly
	}
	treatment, err := s.chosen.Treat(labels.Disk, sharing, labels.Label{})
	if err != nil {
		return err
	}
	if !treatment.Relabel {
		return s.keep(labels.Disk, f.Host, f.Host.Name(), treatment, s.fits(labels.Disk, f.Host))
	}
	// One that fits already is not touched: its file system may take no labels, or be read-only.
	if have, err := lsm.FileLabel(f.Host); err == nil && !f.New && s.chosen.Settled(labels.Disk, sharing, treatment.Label, have) {
		return nil
	}
	item := relabel.Item{File: f.Host, Label: treatment.Label, Remember: treatment.Remember}
	if f.New {
		// The file was made at this start and has no label to go back to.
		item.After = s.chosen.PoweredOff
	}
	return s.relabel(ctx, item)
}

// keep decides about a resource that is not to be relabelled: it must carry the label wanted, or
// just fit.
func (s *selinux) keep(r labels.Resource, shown *os.File, name string, t labels.Treatment, misfit error) error {
	want := cmp.Or(t.Label, s.chosen.Rootfs)
	have, err := lsm.FileLabel(shown)
	switch {
	case misfit == nil && (t.Label.IsZero() || have == want):
		return nil
	case misfit == nil && err == nil:
		misfit = fmt.Errorf("%w: %s is labelled %s, want %s", labels.ErrWish, r, have, want)
	}
	// The command serves a sandbox whose level the engine or an annotation gives: another start of
	// the same container draws another one.
	return fmt.Errorf("%w: have it labelled by [[labels.mounts]] in the config, or by the engine (:z, :Z); "+
		"at a level of your choice, once: chcon -R %s %q", cmp.Or(misfit, err), want, name)
}

// fits compares a file's label with the sandbox's. nil: it fits. A file without a label is a
// misfit, since nothing would keep other sandboxes from it.
func (s *selinux) fits(r labels.Resource, f *os.File) error {
	have, err := lsm.FileLabel(f)
	switch {
	case errors.Is(err, lsm.ErrUnsupported), errors.Is(err, lsm.ErrNoLabel):
		return fmt.Errorf("%w: mount its file system with context=%s, or give a folder of one that takes labels", err, s.chosen.Rootfs)
	case err != nil:
		return err
	}
	return s.chosen.Fits(r, have)
}

// relabel labels one file, or a tree. The journal has the old label before the new one is set.
// Files that could not be labelled are an error here: the guest would have no access to them, or
// somebody else would.
func (s *selinux) relabel(ctx context.Context, item relabel.Item) error {
	report, err := s.relabels.Apply(ctx, s.owner, s.chosen.Level, []relabel.Item{item})
	if err != nil {
		return err
	}
	for _, u := range report.Unlabelled {
		err = errors.Join(err, errors.New(u.String()))
	}
	return err
}
