// SPDX-License-Identifier: Apache-2.0

package template

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// GC removes what nobody finishes, what is damaged or set aside, and what exceeds the bounds, the
// longest unused first. What is known of failed builds goes as well: sizes that were set aside get
// another try. It gives the names of what it removed. A start that has opened a template keeps its
// files.
func (s Store) GC() ([]string, error) {
	removed, err := s.trim(func(e Entry) bool { return !e.SetAside })
	if err != nil {
		return removed, err
	}
	notes, err := s.forget(time.Now())
	return append(removed, notes...), err
}

// noteAge is how long a failed build is remembered at least. The key of an older one is probably
// that of a QEMU or an image that the host does not have any more.
const noteAge = 30 * 24 * time.Hour

// tidy is GC after each build. It leaves out what failed twice: builders would try the same size
// again and again.
func (s Store) tidy() error {
	if _, err := s.trim(func(Entry) bool { return true }); err != nil {
		return err
	}
	_, err := s.forget(time.Now().Add(-noteAge))
	return err
}

// trim keeps within the bounds those of the undamaged templates that may be kept, the longest
// unused ones last, and removes all others.
func (s Store) trim(may func(Entry) bool) ([]string, error) {
	removed, err := s.Sweep()
	if err != nil {
		return removed, err
	}
	all, err := s.List()
	if err != nil {
		return removed, err
	}
	var bytes int64
	kept := 0
	for _, e := range all {
		if e.Problem == "" && may(e) && kept < maxTemplates && bytes+e.Bytes <= maxBytes {
			kept, bytes = kept+1, bytes+e.Bytes
			continue
		}
		if err := s.Remove(e.ID); err != nil {
			return removed, err
		}
		removed = append(removed, e.ID)
	}
	return removed, nil
}

// forget removes notes of failures that are older than a time and of which there is no template. It
// gives their names.
func (s Store) forget(before time.Time) (removed []string, err error) {
	names, err := filepath.Glob(s.path(failedPrefix + "*"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		info, err := os.Lstat(name)
		if err != nil || info.ModTime().After(before) {
			continue
		}
		base := filepath.Base(name)
		if _, err := os.Lstat(s.path(strings.TrimPrefix(base, failedPrefix))); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err := ignoreMissing(os.Remove(name)); err != nil {
			return removed, err
		}
		removed = append(removed, base)
	}
	return removed, nil
}

// Clear removes all templates, and gives their ids.
func (s Store) Clear() (removed []string, err error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	for _, e := range all {
		if err := s.Remove(e.ID); err != nil {
			return removed, err
		}
		removed = append(removed, e.ID)
	}
	return removed, nil
}

// Sweep removes what dead processes left: drafts, on whose folders their builders hold a lock,
// digests that were not put in place, and what SweepShared removes. A living process whose digests
// go keeps none, which is no error. It gives the names of drafts and notes.
func (s Store) Sweep() (removed []string, err error) {
	digests, err := filepath.Glob(s.path(digestsName + ".*"))
	if err != nil {
		return nil, err
	}
	for _, name := range digests {
		if err := ignoreMissing(os.Remove(name)); err != nil {
			return nil, err
		}
	}
	names, err := filepath.Glob(s.path(draftPrefix + "*"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		d, err := os.Open(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return removed, err
		}
		// The lock is held while the folder goes: a builder that has just made it fails to lock it.
		if err = unix.Flock(int(d.Fd()), unix.LOCK_EX|unix.LOCK_NB); err == nil {
			err = os.RemoveAll(name)
			removed = append(removed, filepath.Base(name))
		} else if errors.Is(err, unix.EWOULDBLOCK) {
			err = nil
		}
		if err = errors.Join(err, d.Close()); err != nil {
			return removed, err
		}
	}
	notes, err := s.SweepShared()
	return append(removed, notes...), err
}

// SweepShared removes the notes of shims that were killed, see Shared, and gives their names. What
// a living process has noted stays, and so does what another start has locked.
func (s Store) SweepShared() (removed []string, err error) {
	folders, err := filepath.Glob(s.path(sharedPrefix + "*"))
	if err != nil {
		return nil, err
	}
	for _, folder := range folders {
		lock, err := lockFolder(folder, 0)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EWOULDBLOCK) {
			continue
		}
		if err != nil {
			return removed, err
		}
		names, err := sweepNotes(folder)
		removed = append(removed, names...)
		if err = errors.Join(err, lock.Close()); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// sweepNotes does it for the notes about one template. The caller has the folder's lock.
func sweepNotes(folder string) (removed []string, err error) {
	names, err := os.ReadDir(folder)
	if err != nil {
		return nil, err
	}
	for _, e := range names {
		name := filepath.Join(folder, e.Name())
		n, err := readNote(name)
		if err == nil {
			var f *os.File
			if f, err = n.open(); err == nil {
				_ = f.Close() // read only
			}
		}
		if !isStale(err) {
			continue
		}
		if err := ignoreMissing(os.Remove(name)); err != nil {
			return removed, err
		}
		removed = append(removed, filepath.Join(filepath.Base(folder), e.Name()))
	}
	_ = unix.Rmdir(folder) // living sandboxes have notes in it, as a rule
	return removed, nil
}
