// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/labels/mcs"
	"cloister/labels/relabel"
	"cloister/sys"
	"cloister/tests/testenv"
)

// TestRecoverAllAfterReboot: a reboot takes the records away and leaves labels on files. They are
// given back without a sandbox that starts, and of the earlier boot nothing is kept.
func TestRecoverAllAfterReboot(t *testing.T) {
	testenv.NeedRoot(t)
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	const old, of = "system_u:object_r:virt_image_t:s0", "system_u:object_r:cloister_file_t:s0:c1,c2"
	disk := filepath.Join(root, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lsetxattr(disk, "security.selinux", []byte(old), 0); err != nil {
		testenv.Need(t, testenv.Root, root+" takes no labels")
	}
	label, err := labels.Parse(of)
	if err != nil {
		t.Fatal(err)
	}
	keep := filepath.Join(root, "root")
	if restored, err := RecoverAll(t.Context(), Config{}, keep); err != nil || len(restored) != 0 {
		t.Errorf("on a host without sandboxes: %v, %v", restored, err)
	}
	if _, err := os.Stat(keep); !os.IsNotExist(err) {
		t.Errorf("it makes folders: %v", err)
	}
	journal, err := relabel.Open(relabel.Options{
		Dir: filepath.Join(keep, "relabel"), Self: sys.Process{PID: 1, Start: 1, Boot: "earlier"}, Alive: sys.Process.Alive,
	})
	if err != nil {
		t.Fatal(err)
	}
	item := relabel.Item{Path: disk, Label: label, Remember: true}
	if _, err := journal.Apply(t.Context(), "ns/a", label.Range.High, []relabel.Item{item}); err != nil {
		t.Fatal(err)
	}
	if restored, err := RecoverAll(t.Context(), Config{}, keep); err != nil || !slices.Equal(restored, []string{"ns/a"}) {
		t.Errorf("RecoverAll = %v, %v, want ns/a", restored, err)
	}
	got := make([]byte, 256)
	n, err := unix.Lgetxattr(disk, "security.selinux", got)
	if err != nil || string(got[:n]) != old {
		t.Errorf("label = %q, %v, want %q", got[:max(n, 0)], err, old)
	}
	if _, err := os.Stat(filepath.Join(keep, "relabel/files/earlier")); !os.IsNotExist(err) {
		t.Errorf("the folder of the earlier boot: %v", err)
	}
}

// TestFileOfADeadSandboxStopsNobody has a file of an earlier boot that cannot be given back. Others
// start, and none of them gets its level.
func TestFileOfADeadSandboxStopsNobody(t *testing.T) {
	testenv.NeedRoot(t)
	f := newFake(t)
	disk := filepath.Join(f.root, "disk")
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lsetxattr(disk, "security.selinux", []byte("system_u:object_r:virt_image_t:s0"), 0); err != nil {
		testenv.Need(t, testenv.Root, f.root+" takes no labels")
	}
	_, held := reserve(t, f.options("default/one"))
	keep := f.options("").Root
	journal, err := relabel.Open(relabel.Options{
		Dir: filepath.Join(keep, "relabel"), Self: sys.Process{PID: 1, Start: 1, Boot: "earlier"}, Alive: sys.Process.Alive,
	})
	if err != nil {
		t.Fatal(err)
	}
	level := labels.NewLevel(held.Level.Sensitivity, labels.Pair{Low: 7, High: 8})
	label := held.Files.WithLevel(level)
	item := relabel.Item{Path: disk, Label: label, Remember: true}
	if _, err := journal.Apply(t.Context(), "default/dead", level, []relabel.Item{item}); err != nil {
		t.Fatal(err)
	}
	records, err := filepath.Glob(filepath.Join(keep, "relabel/files/earlier/*.json"))
	if err != nil || len(records) != 1 {
		t.Fatalf("records %v, %v", records, err)
	}
	if err := os.WriteFile(records[0], []byte("spoiled"), 0o600); err != nil {
		t.Fatal(err)
	}
	reserve(t, f.options("default/two"))
	o := f.options("default/three")
	o.static(held.Label.WithLevel(level))
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Reserve(t.Context()); !errors.Is(err, mcs.ErrClash) {
		t.Errorf("Reserve of a level that a file still carries = %v, want %v", err, mcs.ErrClash)
	}
	shares := f.options("default/four")
	shares.static(held.Label.WithLevel(level))
	shares.Wish.Share = "name"
	for what, o := range map[string]Options{"a share of that level": shares, "the dead sandbox's name": f.options("default/dead")} {
		d, err := Open(o)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := d.Reserve(t.Context()); !errors.Is(err, relabel.ErrCorrupt) {
			t.Errorf("Reserve with %s = %v, want %v", what, err, relabel.ErrCorrupt)
		}
	}
	if _, err := RecoverAll(t.Context(), Config{}, keep); !errors.Is(err, relabel.ErrCorrupt) {
		t.Errorf("RecoverAll = %v, want %v", err, relabel.ErrCorrupt)
	}
}
