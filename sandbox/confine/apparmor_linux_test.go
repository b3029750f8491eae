// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/labels/apparmor"
	"cloister/labels/lsm"
	"cloister/oci"
	"cloister/sys"
)

// withAppArmor makes the fake host one with AppArmor in place of SELinux.
func (f *fake) withAppArmor() apparmor.Host {
	f.t.Helper()
	if err := os.RemoveAll(filepath.Join(f.root, "selinux")); err != nil {
		f.t.Fatal(err)
	}
	f.write("proc/filesystems", "")
	f.write("module/parameters/enabled", "Y\n")
	f.write("module/parameters/mode", "enforce\n")
	f.write("security/.load", "")
	f.write("security/profiles", "")
	return apparmor.Host{
		Proc: filepath.Join(f.root, "proc"), Security: filepath.Join(f.root, "security"), Module: filepath.Join(f.root, "module"),
		Compile: func(_ context.Context, text string) ([]byte, error) { return []byte(text), nil },
		Enter:   func(text string) error { return f.note(text) },
		Tell:    f.tell,
	}
}

// tell loads and removes profiles. The names of those that are loaded are in a file, as the kernel
// has it.
func (f *fake) tell(file string, message []byte) error {
	text, err := os.ReadFile(filepath.Join(f.root, "security/profiles"))
	if err != nil {
		return err
	}
	lines := strings.Fields(strings.ReplaceAll(string(text), " (enforce)", ""))
	name := string(message)
	if file == ".load" {
		_, rest, _ := strings.Cut(name, "\nprofile ")
		name, _, _ = strings.Cut(rest, " ")
		if slices.Contains(lines, name) {
			return unix.EEXIST
		}
		lines = append(lines, name)
	} else {
		lines = slices.DeleteFunc(lines, func(l string) bool { return l == name })
	}
	var out strings.Builder
	for _, l := range lines {
		fmt.Fprintf(&out, "%s (enforce)\n", l)
	}
	f.write("security/profiles", out.String())
	return nil
}

func (f *fake) profiles() string {
	text, err := os.ReadFile(filepath.Join(f.root, "security/profiles"))
	if err != nil {
		f.t.Fatal(err)
	}
	return string(text)
}

// profiled are the options of a sandbox on a host with AppArmor.
func (f *fake) profiled(sandbox string, host apparmor.Host) Options {
	f.write("kernel", "")
	o := f.options(sandbox)
	o.Config.MAC = "auto"
	o.AppArmor, o.Share, o.Guest = host, filepath.Join(f.root, "state", sandbox, "share"), []string{filepath.Join(f.root, "kernel")}
	return o
}

func TestAppArmorConfines(t *testing.T) {
	f := newFake(t)
	host := f.withAppArmor()
	d, id := reserve(t, f.profiled("default/one", host))
	_, other := reserve(t, f.profiled("default/two", host))
	if id.MAC != AppArmor || id.Profile == other.Profile || !id.Label.IsZero() || !id.Files.IsZero() {
		t.Errorf("identities %+v and %+v, want two profiles and no labels", id, other)
	}
	pair, _ := id.Level.Pair()
	if want := fmt.Sprintf("cloister-%v-%v", pair.Low, pair.High); id.Profile != want {
		t.Errorf("profile %s, want %s by the pair", id.Profile, want)
	}
	for _, r := range []Role{Machine, FileServer} {
		if err := sys.OnThread(func() error {
			unset, err := d.Exec(r)
			if err == nil {
				unset()
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"exec " + id.Profile + "//qemu", "exec " + id.Profile + "//virtiofsd"}, f.calls); diff != "" {
		t.Errorf("written to the thread's attribute (-want +got):\n%s", diff)
	}
	f.process(50, "")
	p := Process{Role: Machine, PID: 50, Program: f.program()}
	for text, want := range map[string]error{
		id.Profile + "//qemu (enforce)": nil, id.Profile + "//qemu (complain)": apparmor.ErrComplain, "unconfined": apparmor.ErrUnconfined,
		other.Profile + "//qemu (enforce)": apparmor.ErrUnconfined, id.Profile + "//virtiofsd (enforce)": apparmor.ErrUnconfined,
	} {
		f.write("proc/50/task/50/attr/current", text)
		if err := d.Verify(t.Context(), p); !errors.Is(err, want) {
			t.Errorf("Verify of a process in %q = %v, want %v", text, err, want)
		}
	}
	f.write("proc/50/attr/current", id.Profile+"//qemu (enforce)")
	if err := d.Release(t.Context()); !errors.Is(err, apparmor.ErrInUse) {
		t.Errorf("Release under a process = %v, want %v", err, apparmor.ErrInUse)
	}
	f.write("proc/50/attr/current", "unconfined")
	for range 2 {
		if err := d.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if got, want := f.profiles(), other.Profile+" (enforce)\n"; got != want {
		t.Errorf("profiles after the release %q, want %q", got, want)
	}
}

// TestAppArmorConfinesPlainContainers: there are no programs to compare. Before the start the
// profile is looked at, since the kernel shows a pending one to nobody else.
func TestAppArmorConfinesPlainContainers(t *testing.T) {
	f := newFake(t)
	o := f.profiled("default/plain", f.withAppArmor())
	o.Programs, o.Share, o.Guest = lsm.Programs{}, "", nil
	d, id := reserve(t, o)
	if want := id.Profile + "//container"; id.Profile == "" || id.Container != want {
		t.Errorf("identity %+v, want its containers to run in %s", id, want)
	}
	f.process(50, "")
	waits, runs := Process{Role: Container, PID: 50, Waiting: true}, Process{Role: Container, PID: 50, Starter: "/nowhere"}
	f.write("security/profiles", id.Profile+" (enforce)\n")
	if err := d.Verify(t.Context(), waits); !errors.Is(err, apparmor.ErrUnconfined) {
		t.Errorf("Verify without the profile = %v, want %v", err, apparmor.ErrUnconfined)
	}
	f.write("security/profiles", id.Profile+" (enforce)\n"+id.Container+" (enforce)\n")
	if err := d.Verify(t.Context(), waits); err != nil {
		t.Errorf("Verify of a process that waits = %v", err)
	}
	for text, want := range map[string]error{
		id.Container + " (enforce)": nil, id.Container + " (complain)": apparmor.ErrComplain,
		"unconfined": apparmor.ErrUnconfined, "docker-default (enforce)": apparmor.ErrUnconfined,
	} {
		f.write("proc/50/task/50/attr/current", text)
		if err := d.Verify(t.Context(), runs); !errors.Is(err, want) {
			t.Errorf("Verify of a process in %q = %v, want %v", text, err, want)
		}
	}
}

func TestAppArmorRefusesLabelSettings(t *testing.T) {
	f := newFake(t)
	host := f.withAppArmor()
	o := f.profiled("default/one", host)
	o.Annotations = oci.LabelSettings{Mode: "static"}
	if _, err := Open(o); err == nil {
		t.Error("Open with annotations about labels = nil, want an error")
	}
	d, _ := reserve(t, f.profiled("default/one", host))
	for sharing, refused := range map[labels.Sharing]bool{"": false, labels.Keep: false, labels.Private: true, labels.Shared: true} {
		if err := d.Admit(t.Context(), File{Kind: Folder, Host: os.Stdin, Sharing: sharing}); (err != nil) != refused {
			t.Errorf("Admit with sharing %q = %v, want refused %t", sharing, err, refused)
		}
	}
}

func TestAppArmorNameClash(t *testing.T) {
	f := newFake(t)
	host := f.withAppArmor()
	o := f.profiled("default/one", host)
	o.Config.Range = "s0:c0.c7"
	for low := range 8 {
		for high := low + 1; high < 8; high++ {
			if err := f.tell(".load", fmt.Appendf(nil, "\nprofile cloister-c%d-c%d {", low, high)); err != nil {
				t.Fatal(err)
			}
		}
	}
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	_, err = d.Reserve(t.Context())
	if !errors.Is(err, ErrClash) || !errors.Is(err, apparmor.ErrExists) || !strings.Contains(err.Error(), ".remove") {
		t.Errorf("Reserve = %v, want %v with the remedy", err, ErrClash)
	}
	before := f.profiles()
	if err := d.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if got := f.profiles(); got != before {
		t.Errorf("Release removed a profile that is not the sandbox's: %q", got)
	}
}

func TestChoose(t *testing.T) {
	plain, enforcing, permissive, profiles := newFake(t), newFake(t), newFake(t), newFake(t)
	off := plain.withAppArmor()
	plain.write("module/parameters/enabled", "N\n")
	permissive.write("selinux/enforce", "0")
	on := profiles.withAppArmor()
	for _, tt := range []struct {
		name  string
		f     *fake
		host  apparmor.Host
		asked string
		want  MAC
	}{
		{"SELinux enforces", enforcing, off, "auto", SELinux},
		{"SELinux is permissive: no other driver takes its place", permissive, on, "auto", SELinux},
		{"AppArmor alone", profiles, on, "auto", AppArmor},
		{"nothing", plain, off, "auto", None},
		{"nothing is said, SELinux enforces", enforcing, on, "", SELinux},
		{"nothing is said, SELinux is permissive", permissive, on, "", SELinux},
		{"nothing is said, AppArmor alone", profiles, on, "", AppArmor},
		{"nothing is said, nothing", plain, off, "", None},
		{"by name", plain, off, "apparmor", AppArmor},
		{"SELinux by name, where there is AppArmor", profiles, on, "selinux", SELinux},
		{"none by name, where there is AppArmor", profiles, on, "none", None},
		{"no such driver", plain, off, "tomoyo", ""},
	} {
		got, err := Choose(Config{MAC: tt.asked}, tt.f.host(), tt.host)
		if got != tt.want || (err == nil) != (tt.want != "") {
			t.Errorf("%s: Choose(%q) = %q, %v, want %q", tt.name, tt.asked, got, err, tt.want)
		}
	}
}

// TestAutoHonoursLabels: a setting that SELinux alone can honour is not left out without it.
func TestAutoHonoursLabels(t *testing.T) {
	f := newFake(t)
	for _, c := range []Config{{Mode: "static"}, {Label: "u:r:t:s0"}, {Image: "u:r:t:s0"}, {Base: "u:r:t:s0"}, {Share: "a"}} {
		if got, err := Choose(c, f.host(), apparmor.Host{}); got != SELinux || err != nil {
			t.Errorf("Choose(%+v) with SELinux = %q, %v", c, got, err)
		}
	}
	host := f.withAppArmor()
	for _, c := range []Config{{Mode: "static"}, {Label: "u:r:t:s0"}, {Image: "u:r:t:s0"}, {Base: "u:r:t:s0"}, {Share: "a"}} {
		if got, err := Choose(c, f.host(), host); err == nil {
			t.Errorf("Choose(%+v) without SELinux = %q, want an error", c, got)
		}
	}
}

// TestAutoNeverFallsBack opens hosts that have a driver enabled which cannot confine: each is an
// error.
func TestAutoNeverFallsBack(t *testing.T) {
	f := newFake(t)
	f.write("selinux/enforce", "0")
	o := f.options("default/one")
	o.Config.MAC = "auto"
	if _, err := Open(o); err == nil {
		t.Error("Open on a permissive host = nil, want an error")
	}
	f = newFake(t)
	host := f.withAppArmor()
	f.write("module/parameters/mode", "complain\n")
	if _, err := Open(f.profiled("default/one", host)); !errors.Is(err, apparmor.ErrComplain) {
		t.Errorf("Open on a host whose profiles complain = %v, want %v", err, apparmor.ErrComplain)
	}
	if err := os.RemoveAll(filepath.Join(f.root, "security")); err != nil {
		t.Fatal(err)
	}
	f.write("module/parameters/mode", "enforce\n")
	if _, err := Open(f.profiled("default/one", host)); err == nil {
		t.Error("Open without securityfs = nil, want an error")
	}
}

// TestChosenStays: what was planned for one driver is not opened with another.
func TestChosenStays(t *testing.T) {
	f := newFake(t)
	o := f.profiled("default/one", f.withAppArmor())
	for _, chosen := range []MAC{None, SELinux} {
		o.Chosen = chosen
		if _, err := Open(o); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("Open of a sandbox planned for %q = %v, want %v", chosen, err, errdefs.ErrFailedPrecondition)
		}
	}
	o.Chosen = AppArmor
	if _, err := Open(o); err != nil {
		t.Error(err)
	}
}

func TestResolved(t *testing.T) {
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "real"), 0o700), os.Symlink("real", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	for in, want := range map[string]string{
		filepath.Join(dir, "link/a/b"): filepath.Join(dir, "real/a/b"), filepath.Join(dir, "real"): filepath.Join(dir, "real"),
		"": "", "a/b": "",
		"/nosuchfolder/b": "/nosuchfolder/b",
	} {
		if got, err := resolved(in); got != want || (err == nil) != (want != "") {
			t.Errorf("resolved(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
}
