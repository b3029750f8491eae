// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"os"
	"testing"

	"cloister/labels"
	"cloister/tests/testenv"

	"golang.org/x/sys/unix"
)

// TestLevelMemory shows that memory which the policy has made at s0 gets the sandbox's pair, and
// that other files keep theirs.
func TestLevelMemory(t *testing.T) {
	testenv.NeedRoot(t)
	fd, err := unix.MemfdCreate("pc.ram", unix.MFD_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	memory := os.NewFile(uintptr(fd), "pc.ram")
	t.Cleanup(func() { _ = memory.Close() })
	plain, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = plain.Close() })
	const low = "system_u:object_r:cloister_qemu_tmpfs_t:s0"
	for _, f := range []*os.File{memory, plain} {
		if err := SetRawFileLabel(f, low); err != nil {
			testenv.Need(t, testenv.Root, "files take no labels here: "+err.Error())
		}
	}
	// What many sandboxes map keeps its label, and its ctime.
	shared, err := labels.Parse("system_u:object_r:cloister_template_tmpfs_t:s0")
	if err != nil {
		t.Fatal(err)
	}
	if fd, err = unix.MemfdCreate("template-memory", unix.MFD_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	template := os.NewFile(uintptr(fd), "template-memory")
	t.Cleanup(func() { _ = template.Close() })
	if err := SetRawFileLabel(template, "system_u:object_r:tmpfs_t:s0"); err != nil {
		t.Fatal(err)
	}
	var seen unix.Timespec
	for range 2 {
		if err := LabelShared(template, shared); err != nil {
			t.Fatal(err)
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			t.Fatal(err)
		}
		if seen != (unix.Timespec{}) && seen != st.Ctim {
			t.Errorf("the ctime of labelled memory went from %v to %v", seen, st.Ctim)
		}
		seen = st.Ctim
	}
	pair, err := labels.NewPair(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time nothing is to be done
		if err := (&Driver{mode: ModeSELinux}).LevelMemory(os.Getpid(), labels.NewLevel(0, pair), shared); err != nil {
			t.Fatal(err)
		}
		if got, err := RawFileLabel(memory); err != nil || got != low+":c1,c2" {
			t.Errorf("label of the memory = %q, %v, want it at the pair", got, err)
		}
	}
	if got, err := RawFileLabel(template); err != nil || got != shared.String() {
		t.Errorf("label of a template's memory = %q, %v, want %q", got, err, shared)
	}
	if got, err := RawFileLabel(plain); err != nil || got != low {
		t.Errorf("label of a file = %q, %v, want %q", got, err, low)
	}
}
