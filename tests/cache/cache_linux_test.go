// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// file makes a file of that size that was last used at that time.
func file(t *testing.T, path string, size int, used time.Time) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, make([]byte, size), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, used, used); err != nil {
		t.Fatal(err)
	}
}

func TestMakeBuildsOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "clients", "runc")
	var built atomic.Int32
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			err := Make(path, func() error {
				built.Add(1)
				return os.Mkdir(path, 0o755)
			})
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if got := built.Load(); got != 1 {
		t.Errorf("built %d times", got)
	}
	broken := errors.New("broken")
	if err := Make(path+"2", func() error { return broken }); !errors.Is(err, broken) {
		t.Errorf("a build that fails: %v", err)
	}
	if err := Make(path+"2", func() error { return os.Mkdir(path+"2", 0o755) }); err != nil {
		t.Errorf("the next build: %v", err)
	}
}

func TestEntriesAndPrune(t *testing.T) {
	root, now := t.TempDir(), time.Now()
	days := func(n int) time.Time { return now.Add(-time.Duration(n) * 24 * time.Hour) }
	file(t, filepath.Join(root, "kernel", "used", "vmlinux"), 1<<20, days(3))
	file(t, filepath.Join(root, "kernel", "old", "vmlinux"), 1<<20, days(40))
	file(t, filepath.Join(root, "kernel", "old", "config"), 10, days(50))
	file(t, filepath.Join(root, "kernel", "busy", "vmlinux"), 10, days(40))
	file(t, filepath.Join(root, "kernel", "killed.work", "Makefile"), 10, days(2))
	file(t, filepath.Join(root, "clients", ".new-1", "bin"), 10, days(0))
	file(t, filepath.Join(root, "kernel", "old.lock"), 0, days(40))
	file(t, filepath.Join(root, "ci", "history.json"), 10, days(99))
	unlock, err := lock(filepath.Join(root, "kernel", "busy"), unix.LOCK_NB)
	if err != nil {
		t.Fatal(err)
	}
	defer unlock()
	entries, err := Entries(root)
	if err != nil {
		t.Fatal(err)
	}
	old := map[string]bool{}
	for _, e := range entries {
		old[e.Name] = e.Old(now, 30*24*time.Hour)
		if e.Name == "kernel/old" && (e.Bytes < 1<<20 || e.Used.Sub(days(40)).Abs() > time.Second) {
			t.Errorf("kernel/old: %d bytes, used at %s", e.Bytes, e.Used)
		}
		if !old[e.Name] {
			continue
		}
		if err := Remove(root, e); (err != nil) != (e.Name == "kernel/busy") {
			t.Errorf("remove %s: %v", e.Name, err)
		}
	}
	want := map[string]bool{
		"kernel/used": false, "kernel/old": true, "kernel/busy": true,
		"kernel/killed.work": true, "clients/.new-1": false,
	}
	for name, is := range want {
		if was, listed := old[name]; !listed || was != is {
			t.Errorf("%s: listed %t, old %t, want %t", name, listed, was, is)
		}
	}
	if len(entries) != len(want) {
		t.Errorf("listed: %v", entries)
	}
	for name, there := range map[string]bool{
		"kernel/used": true, "kernel/old": false, "kernel/busy": true,
		"kernel/killed.work": false, "ci/history.json": true,
	} {
		if _, err := os.Stat(filepath.Join(root, name)); (err == nil) != there {
			t.Errorf("%s is there: %t, want %t", name, err == nil, there)
		}
	}
}

// TestMountsOfABuildAreLeftAlone has the tree of a killed build with a mount in it.
func TestMountsOfABuildAreLeftAlone(t *testing.T) {
	testenv.NeedRoot(t)
	root, old := t.TempDir(), time.Now().Add(-48*time.Hour)
	tree := filepath.Join(root, "lab", ".root-1")
	file(t, filepath.Join(tree, "etc", "issue"), 10, old)
	mounted := filepath.Join(tree, "proc")
	if err := os.Mkdir(mounted, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("none", mounted, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(mounted, 0) })
	file(t, filepath.Join(mounted, "large"), 1<<20, time.Now())
	entries, err := Entries(root)
	if err != nil || len(entries) != 1 || entries[0].Bytes >= 1<<20 || !entries[0].Old(time.Now(), 30*24*time.Hour) {
		t.Fatalf("Entries = %+v, %v, want the tree without what is mounted in it, to be pruned", entries, err)
	}
	if err := Remove(root, entries[0]); err == nil {
		t.Error("Remove does not tell that something is mounted")
	}
	if _, err := os.Stat(filepath.Join(mounted, "large")); err != nil {
		t.Errorf("what is mounted was emptied: %v", err)
	}
}

func TestNoCacheIsEmpty(t *testing.T) {
	if entries, err := Entries(filepath.Join(t.TempDir(), "nothing")); err != nil || len(entries) != 0 {
		t.Errorf("%v, %v", entries, err)
	}
}
