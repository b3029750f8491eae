// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
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
	shared, template := parse(t, "system_u:object_r:cloister_template_tmpfs_t:s0"), sealed(t, allSeals)
	if err := LabelShared(template, shared); err != nil {
		t.Fatal(err)
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
	wantLabel(t, template, shared.String())
	wantLabel(t, plain, low)
}

const allSeals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL

// sealed is a memory file with these seals, which no label has been given.
func sealed(t *testing.T, seals int) *os.File {
	t.Helper()
	fd, err := unix.MemfdCreate("template-memory", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "template-memory")
	t.Cleanup(func() { _ = f.Close() })
	if err := SetRawFileLabel(f, "system_u:object_r:tmpfs_t:s0"); err != nil {
		testenv.Need(t, testenv.Root, "files take no labels here: "+err.Error())
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_ADD_SEALS, seals); err != nil {
		t.Fatal(err)
	}
	return f
}

// wantLabel compares a file's label.
func wantLabel(t *testing.T, f *os.File, want string) {
	t.Helper()
	if got, err := RawFileLabel(f); err != nil || got != want {
		t.Errorf("label of %s = %q, %v, want %q", f.Name(), got, err, want)
	}
}

// TestLabelShared: memory that other sandboxes use is not labelled anew, whoever's shim has made
// it. Its level is the one that all machines may use, or it is refused.
func TestLabelShared(t *testing.T) {
	testenv.NeedRoot(t)
	const made = "user_u:object_r:cloister_template_tmpfs_t:s0"
	shared, f := parse(t, "system_u:object_r:cloister_template_tmpfs_t:s0"), sealed(t, allSeals)
	pair, err := labels.NewPair(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	for want, refused := range map[string]error{made: nil, made + ":c1,c2": ErrWrongLabel} {
		if err := SetRawFileLabel(f, want); err != nil {
			t.Fatal(err)
		}
		if err := LabelShared(f, shared); !errors.Is(err, refused) {
			t.Errorf("LabelShared of %s = %v, want %v", want, err, refused)
		}
		if err := (&Driver{mode: ModeSELinux}).LevelMemory(os.Getpid(), labels.NewLevel(0, pair), shared); !errors.Is(err, refused) {
			t.Errorf("LevelMemory of a process with %s = %v, want %v", want, err, refused)
		}
		wantLabel(t, f, want)
	}
}

// TestLabelSharedWantsSeals: memory that somebody can still change does not get the label by which
// every machine may open it for writing.
func TestLabelSharedWantsSeals(t *testing.T) {
	testenv.NeedRoot(t)
	shared := parse(t, "system_u:object_r:cloister_template_tmpfs_t:s0")
	for _, missing := range []int{allSeals, unix.F_SEAL_WRITE, unix.F_SEAL_SHRINK, unix.F_SEAL_GROW, unix.F_SEAL_SEAL} {
		f := sealed(t, allSeals&^missing)
		if err := LabelShared(f, shared); !errors.Is(err, ErrWrongLabel) {
			t.Errorf("LabelShared without the seals %#x = %v, want %v", missing, err, ErrWrongLabel)
		}
		wantLabel(t, f, "system_u:object_r:tmpfs_t:s0")
	}
}
