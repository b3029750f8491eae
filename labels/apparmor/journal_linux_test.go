// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// compiled runs the distribution's compiler on a file; a kernel without AppArmor has no
// features to ask for.
func compiled(t *testing.T, path string) ([]byte, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "apparmor_parser", "--skip-cache", "--skip-kernel-load", "--stdout",
		"--kernel-features", "/etc/apparmor.d/abi/3.0", "--abort-on-error", path)
	cmd.Stderr = os.Stderr
	return cmd.Output()
}

func named(name string) Profile {
	p := sample()
	p.Name = name
	return p
}

func TestJournal(t *testing.T) {
	f := newFake(t)
	one, two := f.journal(1), f.journal(2)
	for _, err := range []error{
		one.Load(t.Context(), "default/a", named("cloister-c1-c2")),
		one.Load(t.Context(), "default/b", named("cloister-c1-c3")),
		two.Load(t.Context(), "default/c", named("cloister-c2-c3")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	pending := func(sandbox string, want bool) {
		t.Helper()
		if got, err := two.Pending(sandbox); err != nil || got != want {
			t.Errorf("Pending(%s) = %t, %v, want %t", sandbox, got, err, want)
		}
	}
	pending("default/a", true)
	pending("default/x", false)
	for range 2 {
		if err := one.Restore(t.Context(), "default/a"); err != nil {
			t.Error(err)
		}
	}
	pending("default/a", false)
	if err := two.Replay(t.Context()); err != nil { // all owners live
		t.Error(err)
	}
	pending("default/b", true)
	f.dead = []int{1}
	f.process(50, "cloister-c1-c3//qemu (enforce)")
	if err := two.Replay(t.Context()); err != nil {
		t.Error(err)
	}
	pending("default/b", true) // its machine runs
	f.remove("proc/50")
	if err := two.Replay(t.Context()); err != nil {
		t.Error(err)
	}
	pending("default/b", false)
	pending("default/c", true)
	want := []string{"/usr/sbin/somebody (complain)", "cloister-c2-c3 (enforce)", "cloister-c2-c3//qemu (enforce)"}
	if diff := cmp.Diff(want, f.profiles()); diff != "" {
		t.Errorf("profiles (-want +got):\n%s", diff)
	}
}

func TestJournalLeavesForeignProfiles(t *testing.T) {
	f := newFake(t)
	if err := f.host().Load(t.Context(), named("cloister-c1-c2")); err != nil { // somebody else's
		t.Fatal(err)
	}
	j := f.journal(1)
	if err := j.Load(t.Context(), "default/a", named("cloister-c1-c2")); !errors.Is(err, ErrExists) {
		t.Errorf("Load = %v, want %v", err, ErrExists)
	}
	if err := j.Restore(t.Context(), "default/a"); err != nil {
		t.Error(err)
	}
	if loaded, err := f.host().Loaded("cloister-c1-c2"); err != nil || !loaded {
		t.Errorf("the profile that another program loaded: %t, %v, want it to stay", loaded, err)
	}
}

func TestJournalForgetsWhatWasNotLoaded(t *testing.T) {
	f := newFake(t)
	j := f.journal(1)
	broken := errors.New("broken")
	j.options.Host.Compile = func(context.Context, string) ([]byte, error) { return nil, broken }
	if err := j.Load(t.Context(), "default/a", sample()); !errors.Is(err, broken) {
		t.Errorf("Load = %v, want %v", err, broken)
	}
	if pending, err := j.Pending("default/a"); err != nil || pending {
		t.Errorf("Pending = %t, %v, want nothing noted", pending, err)
	}
}

func TestJournalOfAnotherBoot(t *testing.T) {
	f := newFake(t)
	j := f.journal(1)
	f.write("journal/cloister-c1-c2", `{"sandbox":"default/a","owner":{"pid":7,"start":1,"boot":"earlier"}}`)
	if err := j.Replay(t.Context()); err != nil {
		t.Error(err)
	}
	if pending, err := j.Pending("default/a"); err != nil || pending {
		t.Errorf("Pending = %t, %v", pending, err)
	}
}

func TestJournalReportsACorruptEntry(t *testing.T) {
	f := newFake(t)
	j := f.journal(1)
	for _, text := range []string{"", "{", `{"sandbox":"x"}`} {
		f.write("journal/cloister-c1-c2", text)
		if err := j.Replay(t.Context()); !errors.Is(err, ErrCorrupt) {
			t.Errorf("Replay over %q = %v, want %v", text, err, ErrCorrupt)
		}
		if pending, err := j.Pending("default/a"); !pending || !errors.Is(err, ErrCorrupt) {
			t.Errorf("Pending over %q = %t, %v, want an error", text, pending, err)
		}
	}
	if _, err := os.Stat(filepath.Join(f.root, "journal/cloister-c1-c2")); err != nil {
		t.Error(err)
	}
}
