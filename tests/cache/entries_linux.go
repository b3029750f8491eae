// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// Entry is one thing in the cache, or what an ended build left of it.
type Entry struct {
	Name       string // KIND/ENTRY
	Bytes      int64  // on the disk
	Used       time.Time
	Unfinished bool
}

// Entries lists the cache below root; none if there is no such folder.
func Entries(root string) ([]Entry, error) {
	paths, err := filepath.Glob(filepath.Join(root, "*", "*"))
	if err != nil {
		return nil, err
	}
	var list []Entry
	for _, path := range paths {
		name, err := filepath.Rel(root, path)
		if err != nil {
			return nil, err
		}
		kind, base, _ := strings.Cut(name, "/")
		if strings.HasSuffix(base, ".lock") || kind == "ci" || kind == "go" {
			continue // not built by content: the last runs, and the one toolchain
		}
		e := Entry{Name: name, Unfinished: strings.HasPrefix(base, ".") || strings.HasSuffix(base, ".work")}
		if err := e.measure(path); errors.Is(err, fs.ErrNotExist) {
			continue // its build has just ended
		} else if err != nil {
			return nil, err
		}
		list = append(list, e)
	}
	return list, nil
}

// measure adds up the files below path, and finds when one was last read or written. Reading the
// folders changes their own times, so only files count. Other file systems are left out: a root
// that is being built has /proc mounted in it.
func (e *Entry) measure(path string) error {
	var top unix.Stat_t
	if err := unix.Lstat(path, &top); err != nil {
		return &os.PathError{Op: "stat", Path: path, Err: err}
	}
	err := filepath.WalkDir(path, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // a build goes on
		}
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(name, &st); errors.Is(err, unix.ENOENT) {
			return nil
		} else if err != nil {
			return &os.PathError{Op: "stat", Path: name, Err: err}
		}
		switch {
		case entry.IsDir() && st.Dev != top.Dev:
			return fs.SkipDir
		case entry.IsDir():
			return nil
		}
		e.Bytes += st.Blocks * 512
		for _, at := range []unix.Timespec{st.Atim, st.Mtim} {
			if used := time.Unix(at.Unix()); used.After(e.Used) {
				e.Used = used
			}
		}
		return nil
	})
	if err != nil || !e.Used.IsZero() {
		return err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return err
	}
	e.Used = info.ModTime()
	return nil
}

// unfinished is how long what a build has not finished is left alone.
const unfinished = 24 * time.Hour

// Old tells whether an entry is to be pruned: not used for longer than age, or never finished.
func (e *Entry) Old(now time.Time, age time.Duration) bool {
	if e.Unfinished {
		age = min(age, unfinished)
	}
	return now.Sub(e.Used) > age
}

// Remove takes an entry away, unless it is being built. A mount that a killed build has left in it
// stays, and is an error.
func Remove(root string, e Entry) error {
	path := filepath.Join(root, e.Name)
	unlock, err := lock(strings.TrimSuffix(path, ".work"), unix.LOCK_NB)
	if err != nil {
		return err
	}
	defer unlock()
	return sys.RemoveTree(path)
}
