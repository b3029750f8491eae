// SPDX-License-Identifier: Apache-2.0

package template

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestGCForgetsFailedBuilds: a size whose builds failed gets another try once an administrator has
// called GC. A build of another size does not bring that about.
func TestGCForgetsFailedBuilds(t *testing.T) {
	s := store(t)
	other := key()
	other.CPUs = 2
	failed := other.ID()
	aside := build(t, s, key(), memory(t, 1)).ID
	for range maxFailures {
		if err := errors.Join(s.Fail(failed, "no hello"), s.Fail(aside, "no end of load")); err != nil {
			t.Fatal(err)
		}
	}
	third := key()
	third.CPUs = 3
	good := build(t, s, third, memory(t, 1)).ID
	for _, id := range []string{failed, aside} {
		if n := s.Failures(id); n != maxFailures {
			t.Errorf("after a build of another size %s has failed %d times, want %d", id, n, maxFailures)
		}
	}
	long := time.Now().Add(-2 * noteAge)
	if err := os.Chtimes(s.path(failedPrefix+failed), long, long); err != nil {
		t.Fatal(err)
	}
	build(t, s, third, memory(t, 1))
	if n := s.Failures(failed); n != 0 {
		t.Errorf("a build that failed %d times long ago is remembered", n)
	}
	if err := s.Fail(failed, "no hello"); err != nil {
		t.Fatal(err)
	}
	removed, err := s.GC()
	if want := []string{aside, failedPrefix + failed}; err != nil || !slices.Equal(removed, want) {
		t.Errorf("GC = %q, %v, want %q", removed, err, want)
	}
	if list, err := s.List(); err != nil || len(list) != 1 || list[0].ID != good {
		t.Errorf("List = %+v, %v, want %s alone", list, err, good)
	}
	for _, k := range []Key{other, key()} {
		if err := s.Lacks(k); err != nil {
			t.Errorf("Lacks after GC = %v, want a template wanted", err)
		}
	}
}

func TestGCKeepsWhatWasUsedLast(t *testing.T) {
	s := store(t)
	var ids []string
	for i := range maxTemplates {
		k := key()
		k.CPUs = i + 1
		id := build(t, s, k, memory(t, 1)).ID
		at := time.Now().Add(time.Duration(i-100) * time.Minute)
		if err := os.Chtimes(s.path(id), at, at); err != nil {
			t.Fatal(err)
		}
		ids = append(ids, id)
	}
	build(t, s, key(), memory(t, 2)) // replaces the first
	more := key()
	more.CPUs = 100
	build(t, s, more, memory(t, 1))
	all, err := s.List()
	if err != nil || len(all) != maxTemplates {
		t.Fatalf("List = %d templates, %v, want %d", len(all), err, maxTemplates)
	}
	for _, e := range all {
		if e.ID == ids[1] {
			t.Errorf("%s is kept, want the longest unused one removed", e.ID)
		}
	}
}

// TestGCRemovesAbandonedDrafts: a draft that nobody holds is what a builder left that was killed.
func TestGCRemovesAbandonedDrafts(t *testing.T) {
	s := store(t)
	live, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	dead, err := s.Begin()
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(dead.lock.Fd()), unix.LOCK_UN); err != nil {
		t.Fatal(err)
	}
	removed, err := s.GC()
	if err != nil || len(removed) != 1 || removed[0] != filepath.Base(dead.path) {
		t.Errorf("GC = %v, %v, want %s", removed, err, filepath.Base(dead.path))
	}
	if err := errors.Join(live.Close(), dead.Close()); err != nil {
		t.Error(err)
	}
}

// TestGCRemovesNotesOfTheDead: what a killed shim has noted of the memory that it shared goes, and
// what a living one has noted stays.
func TestGCRemovesNotesOfTheDead(t *testing.T) {
	s := store(t)
	build(t, s, key(), memory(t, 1))
	live, dead := shared(t, s), shared(t, s)
	move(t, dead.note, func(n *note) { n.PID = 1 << 30 })
	want := []string{filepath.Join(filepath.Base(filepath.Dir(dead.note)), filepath.Base(dead.note))}
	if removed, err := s.Sweep(); err != nil || !slices.Equal(removed, want) {
		t.Errorf("Sweep beside a living shim = %q, %v, want %q", removed, err, want)
	}
	later := shared(t, s)
	if inode(t, later.File) != inode(t, live.File) {
		t.Error("the memory of the living shim is not found any more")
	}
	for _, h := range []*Shared{live, later} {
		move(t, h.note, func(n *note) { n.PID = 1 << 30 })
	}
	folder := filepath.Dir(live.note)
	lock, err := lockFolder(folder, 0)
	if err != nil {
		t.Fatal(err)
	}
	if removed, err := s.Sweep(); err != nil || len(removed) != 0 {
		t.Errorf("Sweep beside a start = %q, %v, want nothing", removed, err)
	}
	if err := lock.Close(); err != nil {
		t.Fatal(err)
	}
	if removed, err := s.GC(); err != nil || len(removed) != 2 {
		t.Errorf("GC = %q, %v, want both notes", removed, err)
	}
	if _, err := os.Lstat(folder); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the folder of the notes is left: %v", err)
	}
	if err := errors.Join(live.Close(), dead.Close(), later.Close()); err != nil {
		t.Error(err)
	}
}

// TestSharedFolderThatGoes: starts and ends at once find and remove one folder, and each start has
// noted its memory in the one that is there.
func TestSharedFolderThatGoes(t *testing.T) {
	s := store(t)
	build(t, s, key(), memory(t, 1))
	from, err := s.Open(key())
	if err != nil {
		t.Fatal(err)
	}
	defer from.Close() // read only
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for range 50 {
				h, err := s.Share(from, unlabelled)
				if err != nil {
					t.Error(err)
					return
				}
				if _, err := os.Lstat(h.note); err != nil {
					t.Errorf("no note: %v", err)
				}
				if err := h.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if left, err := filepath.Glob(s.path(sharedPrefix + "*")); err != nil || len(left) != 0 {
		t.Errorf("folders of notes are left: %v, %v", left, err)
	}
}
