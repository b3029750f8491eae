// SPDX-License-Identifier: Apache-2.0

package relabel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"cloister/labels"
	"cloister/labels/lsm"

	"golang.org/x/sys/unix"
)

// ErrInUse is wrapped when another sandbox uses a file under another label. Taking the file over
// would cut that sandbox off from a disk that it has open.
var ErrInUse = errors.New("file is in use by another sandbox")

// Report is what was met on the way and was no reason to stop. Paths are for people: the file may
// have another name by then.
type Report struct {
	// Unlabelled lists what could not be given its label. A sandbox does not start with it.
	Unlabelled []Unlabelled
	// Left lists what was left alone, each with the reason: mounts, device nodes, what somebody
	// else has labelled since.
	Left []string
}

// Unlabelled is a file on a file system that takes no labels, or is read-only.
type Unlabelled struct {
	Path, FileSystem string
	// ReadOnly means that the file system could carry the label, were it writable.
	ReadOnly bool
}

// String says what would help.
func (u Unlabelled) String() string {
	if u.ReadOnly {
		return fmt.Sprintf("%s: its file system is read-only: label it before it is mounted so, or mount it with context=LABEL", u.Path)
	}
	return fmt.Sprintf("%s: %s takes no labels: mount it with context=LABEL, where LABEL is one that fits the sandbox "+
		"(README of labels), or use a file system that takes labels", u.Path, u.FileSystem)
}

func (r *Report) add(o Report) {
	r.Unlabelled = append(r.Unlabelled, o.Unlabelled...)
	r.Left = append(r.Left, o.Left...)
}

// inUseError tells who is in the way, so that a dead one can be undone. It is never given out as a
// type of its own: callers see ErrInUse.
type inUseError struct {
	path, label string
	holders     []string
}

func (e inUseError) Error() string {
	return fmt.Sprintf("%s has label %s for sandbox %s: stop it first, or share the file by name", e.path, e.label, e.holders[0])
}

func (inUseError) Unwrap() error { return ErrInUse }

// Apply labels items for a sandbox at level. It may be called again for more. When it fails, what
// it did is undone, items that are not remembered included; items of earlier calls stay. A file
// that a dead sandbox holds is given back first, and the whole is tried again: without that, a
// crash would block the file until somebody runs gc. A file on a file system without labels is no
// error here but in the Report; the caller decides.
func (j *Journal) Apply(ctx context.Context, sandbox string, level labels.Level, items []Item) (Report, error) {
	for {
		report, err := j.applyAll(ctx, sandbox, level, items)
		var busy inUseError
		if !errors.As(err, &busy) {
			return report, err
		}
		undone, undoing := j.replayDead(ctx, busy.holders)
		if undoing != nil || !undone {
			return report, errors.Join(err, undoing)
		}
	}
}

// applyAll is one attempt. All items are opened and checked before the first is labelled, so that a
// refused one changes nothing. The sandbox's lock keeps a Restore of the same sandbox, as gc's,
// from running at the same time.
func (j *Journal) applyAll(ctx context.Context, sandbox string, level labels.Level, items []Item) (Report, error) {
	folder, err := j.folder(sandbox)
	if err != nil {
		return Report{}, fmt.Errorf("relabel: %w", err)
	}
	targets, err := j.openAll(items)
	defer closeAll(targets)
	if err != nil {
		return Report{}, fmt.Errorf("relabel: %w", err)
	}
	lock, err := j.lock(ctx, "sandbox", sandbox)
	if err != nil {
		return Report{}, err
	}
	defer lock.Close() // gives the lock back
	if err := j.promise(folder, head{Sandbox: sandbox, Owner: j.options.Self, Level: level}); err != nil {
		return Report{}, fmt.Errorf("relabel: %w", err)
	}
	var report Report
	var done []string
	for _, t := range targets {
		name, found, err := j.applyOne(ctx, sandbox, folder, t)
		if name != "" {
			done = append(done, name)
		}
		if err == nil {
			report.add(found)
			continue
		}
		// The caller's context may have ended, which may be why this failed; the undo must run all
		// the same.
		err = advise(err, t.Path)
		undo := context.WithoutCancel(ctx)
		for _, name := range slices.Backward(done) {
			_, undoing := j.leave(undo, sandbox, folder, name, true)
			err = errors.Join(err, undoing)
		}
		return Report{}, fmt.Errorf("relabel %s: %w", t.Path, errors.Join(err, j.closeFolder(folder)))
	}
	return report, j.closeFolder(folder)
}

// openAll opens every item. It returns what it has opened with an error too, and the caller closes
// it. The descriptors stay open until the labels are set: the file that was checked is the one that
// is labelled.
func (j *Journal) openAll(items []Item) ([]target, error) {
	var targets []target
	for _, item := range items {
		if item.Label.IsZero() {
			return targets, fmt.Errorf("%s: %w: it is empty", item.Path, lsm.ErrInvalid)
		}
		t, err := j.open(item)
		if err != nil {
			return targets, err
		}
		targets = append(targets, t)
	}
	return targets, nil
}

func closeAll(targets []target) {
	for _, t := range targets {
		_ = t.file.Close() // O_PATH
	}
}

// promise makes a sandbox's folder with its head, on disk before anything is labelled. From then on
// Pending is true and the level is kept for the sandbox. Another level for the same sandbox is an
// error: the files that it has labelled would be left at a level that nobody holds.
func (j *Journal) promise(folder string, h head) error {
	if err := os.Mkdir(folder, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if old, err := j.loadHead(folder); err == nil {
		if old.Level != h.Level {
			return fmt.Errorf("sandbox %s has files at %v, not %v", h.Sandbox, old.Level, h.Level)
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return errors.Join(store(filepath.Join(folder, headFile), h), syncFolder(filepath.Dir(folder)))
}

// applyOne labels one item. The name it gives, if any, is a hold that is new and is left again on
// failure. The lock is the file's, not the sandbox's: two sandboxes that share a file each read,
// count and write its record. Without the lock one of them would be lost.
func (j *Journal) applyOne(ctx context.Context, sandbox, folder string, t target) (string, Report, error) {
	name := filepath.Join(j.options.Self.Boot, t.id.key())
	lock, err := j.lock(ctx, "file", name)
	if err != nil {
		return "", Report{}, err
	}
	defer lock.Close() // gives the lock back
	r, err := j.loadRecord(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if r, err = j.newRecord(t); err != nil {
			if found, tolerated := unlabelled(t.file, err); tolerated {
				return "", found, nil
			}
			return "", Report{}, err
		}
	case err != nil:
		return "", Report{}, err
	// An inode number is used again after its file was deleted; the time of birth tells the two
	// apart.
	case r.ID.Birth != t.id.Birth:
		return "", Report{}, fmt.Errorf("%w: record %s is of a deleted file that had the inode of %s: cloister labels shows who holds it",
			ErrCorrupt, j.recordPath(name), t.Path)
	case r.Label != t.Label.String():
		if others := r.without(sandbox).Holders; len(others) > 0 {
			return "", Report{}, inUseError{t.Path, r.Label, others}
		}
		return "", Report{}, fmt.Errorf("%s has label %s for this sandbox already", t.Path, r.Label)
	}
	fresh := !slices.Contains(r.Holders, sandbox)
	if fresh {
		// The sandbox's own note comes first: without it nobody would look for the record.
		if err := note(folder, name); err != nil {
			return "", Report{}, err
		}
		r.Holders = append(r.Holders, sandbox)
	}
	first := t.Recursive && !r.Tree // a tree's labels are written down once: later they are ours
	r.Tree = r.Tree || t.Recursive
	// The record has the old label on disk before the new one is set. A crash in between leaves a
	// file that still has its old label, which giveBack leaves as it is.
	if err := store(j.recordPath(name), r); err != nil {
		return name, Report{}, err
	}
	found, err := j.set(ctx, name, r, t, first)
	if !fresh {
		name = ""
	}
	return name, found, err
}

// note writes the name of a record into a sandbox's folder. The file's name is "key@boot", so that
// records of several boots have notes of their own.
func note(folder, name string) error {
	return store(filepath.Join(folder, filepath.Base(name)+"@"+filepath.Dir(name)), name)
}

// newRecord reads what the file carries now. It also notes the top of the file's file system: after
// a reboot, a file that is gone must be told from one that is not mounted yet.
func (j *Journal) newRecord(t target) (record, error) {
	before, err := j.attr.Read(t.file)
	if err != nil && !errors.Is(err, lsm.ErrNoLabel) {
		return record{}, err
	}
	mount, mountID, err := mountOf(t.Path, t.id)
	if err != nil {
		return record{}, err
	}
	return record{
		Path: t.Path, ID: t.id, Mount: mount, MountID: mountID, Volatile: volatile(t.file),
		Boot: j.options.Self.Boot, Before: before, Label: t.Label.String(), After: t.After.String(), Remember: t.Remember,
	}, nil
}

// set labels what is below the item, then the item: it is not reachable at its new label before it
// is done. What has the label already is not written, so that a read-only file that fits passes.
func (j *Journal) set(ctx context.Context, name string, r record, t target, remember bool) (Report, error) {
	var report Report
	if t.Recursive {
		found, err := j.setTree(ctx, name, r, t, remember)
		report.add(found)
		if err != nil {
			return report, err
		}
	}
	now, err := j.attr.Read(t.file)
	if err == nil && now == r.Label {
		return report, nil
	}
	err = j.write(t.file, r.Label)
	if found, tolerated := unlabelled(t.file, err); tolerated {
		report.add(found)
		return report, nil
	}
	return report, err
}

// write sets a label and reads it back. What counts is what the kernel will use.
func (j *Journal) write(f *os.File, label string) error {
	if err := j.attr.Write(f, label); err != nil {
		return err
	}
	got, err := j.attr.Read(f)
	if errors.Is(err, lsm.ErrNoLabel) {
		got, err = "", nil
	}
	if err == nil && got != label {
		err = fmt.Errorf("%w: %s reads back as %q, want %q", lsm.ErrWrongLabel, f.Name(), got, label)
	}
	return err
}

// advise adds what would help where labelling was not let. Root gets EPERM from an immutable file,
// and EACCES from the policy.
func advise(err error, path string) error {
	switch {
	case errors.Is(err, unix.EPERM):
		return fmt.Errorf("%w: it may be immutable: look with lsattr -R %s, and clear the flag with chattr -i", err, path)
	case errors.Is(err, unix.EACCES):
		return fmt.Errorf("%w: the policy forbids relabelling it: run: restorecon -R %s, or give another path", err, path)
	}
	return err
}

// unlabelled tells a file that cannot carry a label from other failures. Such files are reported,
// each with its file system, so that the error of the start names all of them at once.
func unlabelled(f *os.File, err error) (Report, bool) {
	readOnly := errors.Is(err, unix.EROFS)
	if !readOnly && !errors.Is(err, lsm.ErrUnsupported) {
		return Report{}, false
	}
	u := Unlabelled{Path: f.Name(), FileSystem: "its file system", ReadOnly: readOnly}
	var stat unix.Statfs_t
	if unix.Fstatfs(int(f.Fd()), &stat) == nil {
		u.FileSystem = fileSystem(stat.Type)
	}
	return Report{Unlabelled: []Unlabelled{u}}, true
}

// volatile tells a file system that a reboot empties. A record of an earlier boot on one of these
// needs no restore: the file is gone and nothing waits for a mount.
func volatile(f *os.File) bool {
	var stat unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &stat) == nil &&
		(stat.Type == unix.TMPFS_MAGIC || stat.Type == unix.RAMFS_MAGIC || stat.Type == unix.HUGETLBFS_MAGIC)
}

// fileSystem names the file systems that a user is likely to have a volume on; others by their
// magic number, as in the kernel's include/uapi/linux/magic.h.
func fileSystem(magic int64) string {
	switch uint32(magic) {
	case unix.NFS_SUPER_MAGIC:
		return "nfs"
	case unix.SMB_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC:
		return "cifs"
	case unix.FUSE_SUPER_MAGIC:
		return "fuse"
	}
	return fmt.Sprintf("file system %#x", uint32(magic))
}
