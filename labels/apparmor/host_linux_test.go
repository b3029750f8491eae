// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloister/tests/testenv"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		in, name, mode string
		ok             bool
	}{
		{"unconfined\n", "unconfined", "", true},
		{"cloister-c1-c2//qemu (enforce)\n", "cloister-c1-c2//qemu", "enforce", true},
		{"cloister-c1-c2//qemu (complain)\x00", "cloister-c1-c2//qemu", "complain", true},
		{"a (b) (kill)", "a (b)", "kill", true},
		{"system_u:system_r:init_t:s0", "", "", false},
		{"", "", "", false},
		{" (enforce)", "", "", false},
		{"x ()", "", "", false},
		{"x (enforce) ", "", "", false},
	} {
		name, mode, err := parse(tt.in)
		if name != tt.name || mode != tt.mode || (err == nil) != tt.ok {
			t.Errorf("parse(%q) = %q, %q, %v, want %q, %q, ok %t", tt.in, name, mode, err, tt.name, tt.mode, tt.ok)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add("cloister-c1-c2//qemu (enforce)\n")
	f.Fuzz(func(t *testing.T, in string) {
		name, mode, err := parse(in)
		if err == nil && mode != "" && !strings.HasPrefix(in, name+" ("+mode+")") {
			t.Errorf("parse(%q) = %q, %q", in, name, mode)
		}
	})
}

func TestReadyRefusesWhatDoesNotConfine(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*fake)
		want   error
	}{
		{"ready", func(*fake) {}, nil},
		{"kills", func(f *fake) { f.write("module/parameters/mode", "kill\n") }, nil},
		{"no AppArmor", func(f *fake) { f.remove("module") }, ErrDisabled},
		{"disabled", func(f *fake) { f.write("module/parameters/enabled", "N\n") }, ErrDisabled},
		{"complain", func(f *fake) { f.write("module/parameters/mode", "complain\n") }, ErrComplain},
		{"unconfined", func(f *fake) { f.write("module/parameters/mode", "unconfined\n") }, ErrComplain},
		{"securityfs is not mounted", func(f *fake) { f.remove("security") }, errNotReadable},
	} {
		f := newFake(t)
		tt.change(f)
		h := f.host()
		if err := h.Ready(); !errors.Is(err, tt.want) {
			t.Errorf("%s: Ready = %v, want %v", tt.name, err, tt.want)
		}
		if tt.want == nil {
			continue
		}
		if err := h.SetExec("cloister-c1-c2//qemu"); !errors.Is(err, tt.want) || len(f.entered) > 0 {
			t.Errorf("%s: SetExec = %v after %q, want %v and nothing entered", tt.name, err, f.entered, tt.want)
		}
		if err := h.Load(t.Context(), sample()); !errors.Is(err, tt.want) {
			t.Errorf("%s: Load = %v, want %v", tt.name, err, tt.want)
		}
	}
}

// TestHiddenIsNotDisabled: what the kernel says of this thread counts, whatever sysfs looks like.
func TestHiddenIsNotDisabled(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*fake)
		ok     bool
	}{
		{"off", func(f *fake) { f.write("module/parameters/enabled", "N\n") }, true},
		{"not in the kernel", func(f *fake) { f.remove("module") }, true},
		{"no answer", func(f *fake) { f.write("module/parameters/enabled", "") }, false},
		{"hidden", func(f *fake) {
			f.remove("module")
			f.write("proc/thread-self/attr/apparmor/current", "unconfined\n")
		}, false},
		{"another file in its place", func(f *fake) {
			f.write("module/parameters/enabled", "N\n")
			f.write("proc/thread-self/attr/apparmor/current", "engine (enforce)\n")
		}, false},
	} {
		f := newFake(t)
		tt.change(f)
		if enabled, err := f.host().Enabled(); enabled || (err == nil) != tt.ok {
			t.Errorf("%s: Enabled = %t, %v, want not enabled, ok %t", tt.name, enabled, err, tt.ok)
		}
	}
}

func (f *fake) remove(name string) {
	f.t.Helper()
	if err := os.RemoveAll(f.path(name)); err != nil {
		f.t.Fatal(err)
	}
}

func TestLoadRefusesALoadedName(t *testing.T) {
	f := newFake(t)
	h := f.host()
	if err := h.Load(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	if err := h.Load(t.Context(), sample()); !errors.Is(err, ErrExists) || !strings.Contains(err.Error(), sample().Name) {
		t.Errorf("Load = %v, want %v that names the profile", err, ErrExists)
	}
	if loaded, err := h.Loaded(sample().Name); err != nil || !loaded {
		t.Errorf("Loaded = %t, %v, want the first one to stay", loaded, err)
	}
}

func TestRemove(t *testing.T) {
	f := newFake(t)
	h := f.host()
	if err := h.Remove(sample().Name); err != nil {
		t.Errorf("Remove of a profile that is not loaded = %v", err)
	}
	if err := h.Remove("/usr/sbin/somebody"); err == nil {
		t.Error("Remove removed another program's profile")
	}
	if err := h.Load(t.Context(), sample()); err != nil {
		t.Fatal(err)
	}
	f.process(50, Child(sample().Name, QEMU)+" (enforce)\n")
	f.process(51, "unconfined\n")
	f.process(52, sample().Name+"5 (enforce)\n")
	if err := h.Remove(sample().Name); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "[50]") {
		t.Errorf("Remove under a process = %v, want %v [50]", err, ErrInUse)
	}
	f.remove("proc/50/exe") // it has ended
	if err := h.Remove(sample().Name); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"/usr/sbin/somebody (complain)"}, f.profiles()); diff != "" {
		t.Errorf("profiles (-want +got):\n%s", diff)
	}
}

func TestVerify(t *testing.T) {
	const profile = "cloister-c12-c345//qemu"
	for _, tt := range []struct {
		name   string
		change func(*fake)
		want   error
	}{
		{"as it should be", func(*fake) {}, nil},
		{"complain", func(f *fake) { f.write("proc/50/task/50/attr/apparmor/current", profile+" (complain)\n") }, ErrComplain},
		{"all profiles complain", func(f *fake) { f.write("module/parameters/mode", "complain\n") }, ErrComplain},
		{"unconfined", func(f *fake) { f.write("proc/50/task/50/attr/apparmor/current", "unconfined\n") }, ErrUnconfined},
		{"another's", func(f *fake) {
			f.write("proc/50/task/50/attr/apparmor/current", "cloister-c12-c34//qemu (enforce)\n")
		}, ErrUnconfined},
		{"one thread", func(f *fake) { f.write("proc/50/task/51/attr/apparmor/current", "unconfined\n") }, ErrUnconfined},
		{"another program", func(f *fake) {
			f.remove("proc/50/exe")
			f.write("proc/50/exe", "")
		}, ErrUnconfined},
		{"ended", func(f *fake) { f.remove("proc/50/exe") }, os.ErrNotExist},
	} {
		f := newFake(t)
		f.process(50, profile+" (enforce)\n")
		tt.change(f)
		if n, err := f.host().Verify(50, profile, f.path("program")); !errors.Is(err, tt.want) || (err == nil) != (n == 1) {
			t.Errorf("%s: Verify = %d, %v, want %v", tt.name, n, err, tt.want)
		}
	}
	f := newFake(t) // before 5.1 there is the shared attribute alone
	f.process(50, profile+" (enforce)\n")
	f.remove("proc/50/task/50/attr/apparmor")
	f.write("proc/50/task/50/attr/current", profile+" (enforce)\n")
	if n, err := f.host().Verify(50, profile, f.path("program")); n != 1 || err != nil {
		t.Errorf("Verify by the shared attribute = %d, %v", n, err)
	}
}

func TestEnforced(t *testing.T) {
	const profile = "cloister-c12-c345//container"
	for _, tt := range []struct {
		name, profiles, mode string
		want                 error
	}{
		{"as it should be", profile + " (enforce)\n", "enforce", nil},
		{"complains", profile + " (complain)\n", "enforce", ErrComplain},
		{"all complain", profile + " (enforce)\n", "complain", ErrComplain},
		{"another's", "cloister-c12-c34//container (enforce)\n", "enforce", ErrUnconfined},
		{"removed", "", "enforce", ErrUnconfined},
	} {
		f := newFake(t)
		f.write("security/profiles", tt.profiles)
		f.write("module/parameters/mode", tt.mode+"\n")
		if err := f.host().Enforced(profile); !errors.Is(err, tt.want) {
			t.Errorf("%s: Enforced = %v, want %v", tt.name, err, tt.want)
		}
	}
}

// TestEntered has an OCI runtime that takes its time, and one that starts the program without the
// profile: that is seen at once, and where the program runs from memory after the wait.
func TestEntered(t *testing.T) {
	const profile = "cloister-c12-c345//container"
	f := newFake(t)
	f.write("shell", "")
	f.process(50, "unconfined\n")
	runs := func(program string) {
		f.remove("proc/50/exe")
		if err := os.Symlink(program, f.path("proc/50/exe")); err != nil {
			t.Fatal(err)
		}
	}
	time.AfterFunc(20*time.Millisecond, func() {
		f.write("proc/50/task/50/attr/apparmor/next", profile+" (enforce)\n") // a read sees one of the two, whole
		if err := os.Rename(f.path("proc/50/task/50/attr/apparmor/next"), f.path("proc/50/task/50/attr/apparmor/current")); err != nil {
			t.Error(err)
		}
	})
	if err := f.host().Entered(t.Context(), 50, profile, f.path("program")); err != nil {
		t.Errorf("Entered of a slow start = %v", err)
	}
	f.write("proc/50/task/50/attr/apparmor/current", "unconfined\n")
	runs(f.path("shell"))
	err := f.host().Entered(t.Context(), 50, profile, f.path("program"))
	if !errors.Is(err, ErrUnconfined) || errors.Is(err, context.Canceled) {
		t.Errorf("Entered of an unconfined program = %v, want %v at once", err, ErrUnconfined)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	const inMemory = "/memfd:runc_cloned:/proc/self/exe (deleted)"
	for _, starter := range []string{f.path("program"), f.path("program") + " (deleted)", "/runc", inMemory, "/"} {
		runs(starter)
		err := f.host().Entered(ended, 50, profile, f.path("program"))
		if !errors.Is(err, ErrUnconfined) || !errors.Is(err, context.Canceled) {
			t.Errorf("Entered after the wait, of %s = %v, want %v", starter, err, ErrUnconfined)
		}
	}
	f.write("proc/50/task/50/attr/apparmor/current", profile+" (complain)\n")
	if err := f.host().Entered(t.Context(), 50, profile, f.path("program")); !errors.Is(err, ErrComplain) {
		t.Errorf("Entered in complain mode = %v, want %v", err, ErrComplain)
	}
}

// TestRemovedUnderAProcess: the kernel leaves a process unconfined when its profile is removed.
func TestRemovedUnderAProcess(t *testing.T) {
	f := newFake(t)
	f.process(50, "cloister-c1-c2//qemu (enforce)\n")
	if n, err := f.host().Confined(50, "cloister-c1-c2//qemu"); n != 1 || err != nil {
		t.Errorf("Confined = %d, %v", n, err)
	}
	f.write("proc/50/task/50/attr/apparmor/current", "unconfined\n")
	if _, err := f.host().Confined(50, "cloister-c1-c2//qemu"); !errors.Is(err, ErrUnconfined) {
		t.Errorf("Confined without a profile = %v, want %v", err, ErrUnconfined)
	}
}

func TestSetExec(t *testing.T) {
	f := newFake(t)
	if err := f.host().SetExec("cloister-c1-c2//qemu"); err != nil || !slices.Equal(f.entered, []string{"exec cloister-c1-c2//qemu"}) {
		t.Errorf("SetExec = %v, wrote %q", err, f.entered)
	}
}

// TestParserCompiles gives the golden profiles to the distribution's compiler, with the
// features that it assumes of a kernel.
func TestParserCompiles(t *testing.T) {
	testenv.NeedTool(t, "apparmor_parser")
	for _, golden := range []string{"testdata/kvm.profile", "testdata/emulated.profile", "testdata/plain.profile"} {
		out, err := compiled(t, golden)
		if err != nil || len(out) < 1000 {
			t.Errorf("%s: %d bytes, %v", golden, len(out), err)
		}
	}
}
