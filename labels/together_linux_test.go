// SPDX-License-Identifier: Apache-2.0

package labels_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"cloister/labels"
	"cloister/labels/mcs"
	"cloister/labels/relabel"
	"cloister/sys"
	"cloister/tests/testenv"

	"golang.org/x/sys/unix"
)

// TestPairIsHeldUntilRestored goes the way of a sandbox whose process dies, and of the next
// process: the pair is not given out before the machine is gone and the disk has its old label
// back.
func TestPairIsHeldUntilRestored(t *testing.T) {
	testenv.NeedRoot(t)
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(root, "disk")
	const old = "system_u:object_r:virt_image_t:s0"
	if err := os.WriteFile(disk, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Lsetxattr(disk, "security.selinux", []byte(old), 0); err != nil {
		testenv.Need(t, testenv.Root, root+" takes no labels")
	}
	self, err := sys.Self()
	if err != nil {
		t.Fatal(err)
	}
	first := self
	first.PID = 1 << 30 // a process that is dead by now
	var machines []labels.Process
	scan := func(context.Context) ([]labels.Process, error) { return machines, t.Context().Err() }
	open := func(owner sys.Process) (*relabel.Journal, *mcs.Registry) {
		journal, err := relabel.Open(relabel.Options{
			Dir: filepath.Join(root, "relabel"), Self: owner, Alive: sys.Process.Alive,
			Carried: func(_ context.Context, l labels.Level) (bool, error) {
				for _, m := range machines {
					if m.Label.Range.High.Clashes(l) {
						return true, nil
					}
				}
				return false, nil
			},
		})
		if err != nil {
			t.Fatal(err)
		}
		registry, err := mcs.Open(mcs.Options{
			Dir: filepath.Join(root, "mcs"), Self: owner, Alive: sys.Process.Alive, Scan: scan,
			Pending: journal.Pending, Held: journal.Held,
		})
		if err != nil {
			t.Fatal(err)
		}
		return journal, registry
	}

	journal, registry := open(first)
	entry, err := registry.Reserve(t.Context(), mcs.Request{Sandbox: "ns/a"})
	if err != nil {
		t.Fatal(err)
	}
	own, err := labels.Parse("system_u:system_r:cloister_shim_t:s0")
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := labels.Choose(labels.Wish{}, own, labels.Own(true), entry.Level)
	if err != nil {
		t.Fatal(err)
	}
	treatment, err := chosen.Treat(labels.Disk, labels.Private, labels.Label{})
	if err != nil {
		t.Fatal(err)
	}
	item := relabel.Item{Path: disk, Label: treatment.Label, Remember: treatment.Remember}
	if _, err := journal.Apply(t.Context(), "ns/a", entry.Level, []relabel.Item{item}); err != nil {
		t.Fatal(err)
	}

	// The first process is dead; its machine runs on, then ends.
	machines = []labels.Process{{PID: 4711, Label: chosen.QEMU}}
	journal, registry = open(self)
	step := func(name string, replayed, freed int) {
		t.Helper()
		if got, err := journal.Replay(t.Context()); err != nil || len(got) != replayed {
			t.Errorf("%s: Replay = %v, %v, want %d", name, got, err, replayed)
		}
		if got, err := registry.Reclaim(t.Context()); err != nil || len(got) != freed {
			t.Errorf("%s: Reclaim = %v, %v, want %d", name, got, err, freed)
		}
	}
	step("machine runs", 0, 0)
	if _, err := registry.Reserve(t.Context(), mcs.Request{Sandbox: "ns/b", Level: &entry.Level}); !errors.Is(err, mcs.ErrClash) {
		t.Errorf("Reserve of the dead owner's pair = %v, want %v", err, mcs.ErrClash)
	}
	machines = nil
	if got, err := registry.Reclaim(t.Context()); err != nil || len(got) != 0 {
		t.Errorf("Reclaim before the journal is done = %v, %v, want nothing", got, err)
	}
	step("machine gone", 1, 1)
	if _, err := registry.Reserve(t.Context(), mcs.Request{Sandbox: "ns/b", Level: &entry.Level}); err != nil {
		t.Errorf("Reserve of the reclaimed pair = %v", err)
	}
	buffer := make([]byte, 128)
	n, err := unix.Lgetxattr(disk, "security.selinux", buffer)
	if err != nil || string(buffer[:n]) != old {
		t.Errorf("the disk's label is %q, %v, want %q", buffer[:max(n, 0)], err, old)
	}
}
