// SPDX-License-Identifier: Apache-2.0

package relabel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"cloister/labels/lsm"
)

// Restore ends a sandbox's use of all it has labelled; files that nobody else uses get back what
// they had. It is called when the sandbox's processes have ended: a guest that still runs would
// lose its disks. It is repeated until it gives no error: what could not be given back stays in the
// journal. A sandbox that has labelled nothing is no error.
func (j *Journal) Restore(ctx context.Context, sandbox string) (Report, error) {
	folder, err := j.folder(sandbox)
	if err != nil {
		return Report{}, fmt.Errorf("restore labels: %w", err)
	}
	lock, err := j.lock(ctx, "sandbox", sandbox)
	if err != nil {
		return Report{}, err
	}
	defer lock.Close() // gives the lock back
	report, err := j.restoreFolder(ctx, sandbox, folder)
	if err != nil {
		return report, fmt.Errorf("restore labels of sandbox %s: %w", sandbox, err)
	}
	return report, nil
}

// restoreFolder leaves every file that the sandbox notes. One failure keeps no other file from
// getting its label back; the folder stays for the next attempt.
func (j *Journal) restoreFolder(ctx context.Context, sandbox, folder string) (Report, error) {
	if _, err := os.Lstat(folder); errors.Is(err, fs.ErrNotExist) {
		return Report{}, nil
	}
	names, err := notesIn(folder)
	if err != nil {
		return Report{}, err
	}
	var report Report
	var problems []error
	for _, name := range names {
		left, err := j.leave(ctx, sandbox, folder, name, false)
		report.add(left)
		problems = append(problems, err)
	}
	if err := errors.Join(problems...); err != nil {
		return report, err
	}
	return report, j.closeFolder(folder)
}

// closeFolder removes a sandbox's folder once it has no notes, and with it the head: the sandbox's
// level may be given out from then on.
func (j *Journal) closeFolder(folder string) error {
	names, err := notesIn(folder)
	if err != nil || len(names) > 0 {
		return err
	}
	return os.RemoveAll(folder)
}

// leave ends a sandbox's use of one file. The label comes first, then the record, then the note:
// whoever comes after a crash does the same again. undo gives back labels that are not remembered
// too: of an Apply that has failed. Restoring them on stop would take them from others who use them
// by their shared label.
func (j *Journal) leave(ctx context.Context, sandbox, folder, name string, undo bool) (Report, error) {
	lock, err := j.lock(ctx, "file", name)
	if err != nil {
		return Report{}, err
	}
	defer lock.Close() // gives the lock back
	r, err := j.loadRecord(name)
	var report Report
	switch {
	case errors.Is(err, fs.ErrNotExist): // promised and never made
	case err != nil:
		return Report{}, err
	default:
		left := r.without(sandbox)
		switch {
		case len(left.Holders) == len(r.Holders): // promised and never joined
		case len(left.Holders) > 0:
			err = store(j.recordPath(name), left)
		default:
			if undo {
				r.Remember, r.After = true, ""
			}
			report, err = j.giveBack(ctx, name, r)
		}
	}
	if err != nil {
		return report, err
	}
	return report, os.Remove(filepath.Join(folder, filepath.Base(name)+"@"+filepath.Dir(name)))
}

// giveBack puts the old labels back and ends the record. A file that is gone ends its record too,
// and is reported. A file that may only be not mounted keeps it: its label is still the sandbox's,
// and so the level stays held.
func (j *Journal) giveBack(ctx context.Context, name string, r record) (Report, error) {
	var report Report
	if r.Remember {
		file, why, err := reopen(r)
		switch {
		case err == nil && file == nil && r.Boot != j.options.Self.Boot && !r.Volatile && !mounted(r):
			return Report{}, fmt.Errorf("%w: %s, of an earlier boot: mount %s, or remove %s", errNotMounted,
				r.Path, r.Mount, j.recordPath(name))
		case err != nil:
			return Report{}, err
		case file == nil:
			report.Left = append(report.Left, r.Path+": "+why)
		default:
			report, err = j.giveBackFile(ctx, name, r, file)
			if err := errors.Join(err, file.Close()); err != nil {
				return report, err
			}
		}
	}
	for _, path := range []string{j.treePath(name) + ".tmp", j.treePath(name)} {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return report, err
		}
	}
	return report, os.Remove(j.recordPath(name))
}

// errNotMounted means that a file is not there because its file system is not: it is tried again
// later.
var errNotMounted = errors.New("file system is not mounted")

// mounted tells whether the folder that was the top of the file's file system is that folder still.
func mounted(r record) bool {
	f, err := openPath(r.Mount)
	if err != nil {
		return false
	}
	_, id, err := identify(f)
	return errors.Join(err, f.Close()) == nil && id.same(r.MountID)
}

// reopen finds a record's file again; nil and a reason when it is gone. It goes by the path and
// then compares the identity, so that a file which somebody put in its place keeps the label that
// it has. That includes a folder on the way: who owns one must not be able to stop a restore.
func reopen(r record) (*os.File, string, error) {
	file, err := openPath(r.Path)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrRefused) || errors.Is(err, unix.ENOTDIR) {
		return nil, "it is gone, or its path leads through a link or a file", nil
	}
	if err != nil {
		return nil, "", err
	}
	_, id, err := identify(file)
	if err != nil {
		return nil, "", errors.Join(err, file.Close())
	}
	if !id.same(r.ID) {
		return nil, "another file has taken its place", file.Close()
	}
	return file, "", nil
}

// giveBackFile puts back the labels of one file that is there. What is below it comes first, as in
// set: after a crash the top still has the sandbox's label, and all is done again.
func (j *Journal) giveBackFile(ctx context.Context, name string, r record, file *os.File) (Report, error) {
	var report Report
	if r.Tree {
		found, err := j.restoreTree(ctx, name, r, file)
		report.add(found)
		if err != nil {
			return report, err
		}
	}
	now, err := j.attr.Read(file)
	switch {
	case errors.Is(err, lsm.ErrNoLabel), errors.Is(err, lsm.ErrUnsupported):
		return report, nil
	case err != nil:
		return report, err
	case now == r.goal():
		return report, nil
	// A label that neither we nor the file had before is an administrator's choice, made since.
	case now != r.Label && now != r.Before:
		report.Left = append(report.Left, fmt.Sprintf("%s: somebody else has changed its label to %s, which is kept", r.Path, now))
		return report, nil
	}
	err = j.write(file, r.goal())
	if found, tolerated := unlabelled(file, err); tolerated {
		report.add(found)
		return report, nil
	}
	return report, err
}

// Replay restores for every sandbox whose owner is dead and whose level no process carries, of this
// boot or an earlier one. It is called before anything is labelled and before any level is given
// out. An unreadable journal is an error: nobody could tell which files carry whose level.
//
// A level that a process still carries belongs to a machine that outlived its shim: its files keep
// their labels until cleanup has killed it.
func (j *Journal) Replay(ctx context.Context) ([]string, error) {
	heads, err := j.heads()
	if err != nil {
		return nil, fmt.Errorf("replay the relabel journal: %w", err)
	}
	var done []string
	var problems []error
	for _, h := range heads {
		undone, err := j.replayOne(ctx, h)
		if !errors.Is(err, errNotMounted) { // its level stays held (Held), so it can wait
			problems = append(problems, err)
		}
		if undone {
			done = append(done, h.Sandbox)
		}
	}
	if err := errors.Join(append(problems, j.sweep(ctx))...); err != nil {
		return done, fmt.Errorf("replay the relabel journal: %w", err)
	}
	return done, nil
}

// replayDead restores for those of the named sandboxes that are dead, and tells whether there was
// one.
func (j *Journal) replayDead(ctx context.Context, sandboxes []string) (bool, error) {
	some := false
	for _, sandbox := range sandboxes {
		folder, err := j.folder(sandbox)
		if err != nil {
			return some, err
		}
		h, err := j.loadHead(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return some, err
		}
		undone, err := j.replayOne(ctx, h)
		if err != nil {
			return some, err
		}
		some = some || undone
	}
	return some, nil
}

// replayOne restores for one sandbox if it is dead, and tells whether that is done, by whomever.
// Carried is asked only about this boot: no process of an earlier one lives. An owner who is alive
// restores by itself. The head is read again under the lock: a sandbox of that name may have been
// started anew since, and its files must not be taken from it.
func (j *Journal) replayOne(ctx context.Context, h head) (bool, error) {
	alive, err := j.options.Alive(h.Owner)
	if err != nil || alive {
		return false, err
	}
	if j.options.Carried != nil && h.Owner.Boot == j.options.Self.Boot {
		carried, err := j.options.Carried(ctx, h.Level)
		if err != nil || carried {
			return false, err
		}
	}
	folder, err := j.folder(h.Sandbox)
	if err != nil {
		return false, err
	}
	lock, err := j.lock(ctx, "sandbox", h.Sandbox)
	if err != nil {
		return false, err
	}
	defer lock.Close() // gives the lock back
	now, err := j.loadHead(folder)
	if errors.Is(err, fs.ErrNotExist) || err == nil && now != h {
		return true, nil
	}
	if err == nil {
		_, err = j.restoreFolder(ctx, h.Sandbox, folder)
	}
	if err != nil {
		return false, fmt.Errorf("restore labels of sandbox %s: %w", h.Sandbox, err)
	}
	return true, nil
}

// sweep removes what a crash has left and nobody holds: sandboxes' folders without a head, and
// earlier boots' empty folders. A folder without a head has labelled nothing, since the head comes
// first.
func (j *Journal) sweep(ctx context.Context) error {
	folders, err := os.ReadDir(filepath.Join(j.options.Dir, sandboxesFolder))
	if err != nil {
		return err
	}
	for _, entry := range folders {
		folder := filepath.Join(j.options.Dir, sandboxesFolder, entry.Name())
		if _, err := os.Lstat(filepath.Join(folder, headFile)); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := j.sweepFolder(ctx, folder); err != nil {
			return err
		}
	}
	boots, err := os.ReadDir(filepath.Join(j.options.Dir, filesFolder))
	if err != nil {
		return err
	}
	for _, boot := range boots {
		folder := filepath.Join(j.options.Dir, filesFolder, boot.Name())
		records, err := filepath.Glob(filepath.Join(folder, "*.json"))
		if boot.Name() == j.options.Self.Boot || err != nil || len(records) > 0 {
			continue
		}
		if err := os.RemoveAll(folder); err != nil {
			return err
		}
	}
	return nil
}

// sweepFolder removes a folder without a head, under the lock of the sandbox that may be making it.
func (j *Journal) sweepFolder(ctx context.Context, folder string) error {
	sandbox, err := url.PathUnescape(filepath.Base(folder))
	if err != nil {
		return fmt.Errorf("%w: %s is no sandbox's name: remove it", ErrCorrupt, folder)
	}
	lock, err := j.lock(ctx, "sandbox", sandbox)
	if err != nil {
		return err
	}
	defer lock.Close() // gives the lock back
	if _, err := os.Lstat(filepath.Join(folder, headFile)); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return os.RemoveAll(folder)
}
