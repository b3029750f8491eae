// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/mcs"
	"cloister/oci"
	"cloister/sys"
	"cloister/tests/testenv"
)

func (f *fake) options(sandbox string) Options {
	return Options{
		Root: filepath.Join(f.root, "root"), Sandbox: sandbox, Tenant: "default", Types: labels.Candidates(true), Host: f.host(),
		Programs: lsm.Programs{QEMU: f.program(), Virtiofsd: f.program()},
	}
}

// static asks for a whole label.
func (o *Options) static(l labels.Label) {
	o.Wish = labels.Wish{Mode: labels.Static, Label: l}
	o.Types = o.Wish.Candidates(true)
}

func reserve(t *testing.T, o Options) (Driver, Identity) {
	t.Helper()
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	id, err := d.Reserve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return d, id
}

func TestEachSandboxHasItsOwnPair(t *testing.T) {
	f := newFake(t)
	one, first := reserve(t, f.options("default/one"))
	_, second := reserve(t, f.options("default/two"))
	if a, b := first.Label.Range.High, second.Label.Range.High; a == b || a.Categories.Len() != 2 {
		t.Errorf("levels %v and %v, want two pairs", a, b)
	}
	if first.Label.Type != "cloister_qemu_t" || first.Files.Type != "cloister_rootfs_t" {
		t.Errorf("identity %+v", first)
	}
	for range 2 {
		if err := one.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
	o := f.options("default/three")
	o.static(first.Label)
	if _, again := reserve(t, o); again.Label != first.Label {
		t.Errorf("the released level is not free: %v", again)
	}
	o = f.options("default/four")
	o.static(second.Label)
	d, err := Open(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Reserve(t.Context()); !errors.Is(err, mcs.ErrClash) {
		t.Errorf("Reserve of a held level = %v, want %v", err, mcs.ErrClash)
	}
	if err := d.Release(t.Context()); err != nil {
		t.Errorf("Release after a failed Reserve = %v", err)
	}
}

func TestOpenRefusesAPolicyWithoutSeparation(t *testing.T) {
	f := newFake(t)
	f.files = false
	if _, err := Open(f.options("default/one")); !errors.Is(err, lsm.ErrNoDomain) {
		t.Errorf("Open = %v, want %v", err, lsm.ErrNoDomain)
	}
}

func TestTypesAreAskedForAnotherProcess(t *testing.T) {
	f := newFake(t)
	driver, err := lsm.Open(lsm.Options{Host: f.host()})
	if err != nil {
		t.Fatal(err)
	}
	programs := f.options("").Programs
	if types, err := Types(driver, Config{}, true, programs); err != nil || types.Name != labels.Own(true).Name {
		t.Errorf("Types = %+v, %v, want cloister's own", types, err)
	}
	stranger := driver.As(driver.OwnLabel().WithType("cloister_run_t"))
	if _, err := Types(stranger, Config{}, true, programs); !errors.Is(err, lsm.ErrNoDomain) {
		t.Errorf("Types for a process that may start nothing = %v, want %v", err, lsm.ErrNoDomain)
	}
}

func TestRolesHaveTheirLabels(t *testing.T) {
	f := newFake(t)
	d, id := reserve(t, f.options("default/one"))
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
	made := false
	if err := d.Sockets(func() error { made = true; return nil }); err != nil || !made {
		t.Errorf("Sockets = %v, created %t", err, made)
	}
	machine := id.Label.String()
	want := []string{
		"exec " + machine, "exec", "exec " + id.Label.WithType("cloister_virtiofsd_t").String(),
		"exec", "socket " + machine, "socket",
	}
	if diff := cmp.Diff(want, f.calls); diff != "" {
		t.Errorf("labels set (-want +got):\n%s", diff)
	}
}

func TestVerify(t *testing.T) {
	tests := []struct {
		name   string
		change func(f *fake, id Identity, p *Process)
		want   error
	}{
		{"all as it should be", func(*fake, Identity, *Process) {}, nil},
		{
			"wrong label", func(f *fake, id Identity, _ *Process) { f.process(50, id.Label.WithType("initrc_t").String()) },
			lsm.ErrWrongLabel,
		},
		{"wrong label of one thread", func(f *fake, _ Identity, _ *Process) {
			f.write("proc/50/task/51/attr/current", "system_u:system_r:cloister_qemu_t:s0")
		}, lsm.ErrWrongLabel},
		{"wrong program", func(f *fake, _ Identity, p *Process) {
			f.write("other", "")
			p.Program = filepath.Join(f.root, "other")
		}, lsm.ErrWrongProgram},
		{"wrong peer", func(f *fake, id Identity, _ *Process) { f.peer = id.Label.WithType("initrc_t").String() }, lsm.ErrWrongLabel},
		{"somebody else at the level", func(f *fake, id Identity,
			_ *Process,
		) {
			f.process(60, id.Label.WithType("container_t").String())
		}, mcs.ErrClash},
		{"turned permissive", func(f *fake, _ Identity, _ *Process) { f.write("selinux/enforce", "0") }, lsm.ErrPermissive},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			d, id := reserve(t, f.options("default/one"))
			f.process(50, id.Label.String())
			f.peer = id.Label.String()
			p := Process{Role: Machine, PID: 50, Program: f.program(), Peers: []syscall.Conn{os.Stdin}}
			tt.change(f, id, &p)
			if err := d.Verify(t.Context(), p); !errors.Is(err, tt.want) {
				t.Errorf("Verify = %v, want %v", err, tt.want)
			}
		})
	}
}

// open makes a labelled file, or a folder with one in it, and opens it with O_PATH.
func (f *fake) open(folder bool, text string) *os.File {
	f.t.Helper()
	testenv.NeedRoot(f.t)
	path := filepath.Join(f.t.TempDir(), "file")
	all := []string{path}
	if folder {
		all = append(all, filepath.Join(path, "below"))
		if err := os.Mkdir(path, 0o700); err != nil {
			f.t.Fatal(err)
		}
	}
	if err := os.WriteFile(all[len(all)-1], nil, 0o600); err != nil {
		f.t.Fatal(err)
	}
	for _, p := range all {
		if err := unix.Setxattr(p, "security.selinux", []byte(text), 0); err != nil {
			testenv.Need(f.t, testenv.Root, p+" takes no labels: "+err.Error())
		}
	}
	file, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		f.t.Fatal(err)
	}
	f.t.Cleanup(func() { _ = file.Close() })
	return file
}

func TestAdmit(t *testing.T) {
	const foreign, other = "system_u:object_r:home_t:s0", "system_u:object_r:cloister_rootfs_t:s0:c900,c901"
	tests := []struct {
		name   string
		file   File
		label  string // OWN stands for the sandbox's level
		want   string // its label afterwards
		refuse bool
	}{
		{"state", File{Kind: State}, foreign, "system_u:object_r:cloister_run_t:OWN", false},
		{"share", File{Kind: Share}, foreign, "system_u:object_r:cloister_rootfs_t:OWN", false},
		{"machine's root", File{Kind: Root}, foreign, "system_u:object_r:cloister_content_t:s0", false},
		{"root file system", File{Kind: Folder}, foreign, "system_u:object_r:cloister_rootfs_t:OWN", false},
		{
			"root file system that fits",
			File{Kind: Folder},
			"system_u:object_r:cloister_content_t:s0",
			"system_u:object_r:cloister_content_t:s0", false,
		},
		{"private volume", File{Kind: Folder, Sharing: labels.Private}, other, "system_u:object_r:cloister_rootfs_t:OWN", false},
		{"shared volume", File{Kind: Folder, Sharing: labels.Shared}, foreign, "system_u:object_r:cloister_rootfs_t:s0", false},
		{
			"kept volume",
			File{Kind: Folder, Sharing: labels.Keep},
			"system_u:object_r:cloister_rootfs_t:OWN",
			"system_u:object_r:cloister_rootfs_t:OWN", false,
		},
		{"kept volume of another type", File{Kind: Folder, Sharing: labels.Keep}, foreign, foreign, true},
		{"kept volume of another sandbox", File{Kind: Folder, Sharing: labels.Keep}, other, other, true},
		{"copy", File{Kind: Copy}, foreign, foreign, false},
		{"copy of another sandbox's", File{Kind: Copy}, other, other, true},
		{"disk", File{Kind: Disk}, foreign, "system_u:object_r:cloister_image_t:OWN", false},
		{"read-only disk", File{Kind: Disk, ReadOnly: true}, foreign, "system_u:object_r:cloister_content_t:s0", false},
		{"memory", File{Kind: Memory}, "system_u:object_r:tmpfs_t:s0", "system_u:object_r:cloister_qemu_tmpfs_t:OWN", false},
		{
			"template's memory",
			File{Kind: Template},
			"system_u:object_r:tmpfs_t:s0",
			"system_u:object_r:cloister_template_tmpfs_t:s0", false,
		},
		{"no kind", File{}, foreign, foreign, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			d, id := reserve(t, f.options("default/one"))
			at := func(text string) string { return strings.ReplaceAll(text, "OWN", id.Label.Range.High.String()) }
			tt.file.Host = f.open(tt.file.Kind == Folder, at(tt.label))
			if tt.file.Kind == Template {
				tt.file.Host = f.sealed(tt.label)
			}
			if tt.file.Kind == Copy { // as engines make theirs
				if err := os.Chmod(tt.file.Host.Name(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			if err := d.Admit(t.Context(), tt.file); (err != nil) != tt.refuse {
				t.Errorf("Admit = %v, want refused %t", err, tt.refuse)
			}
			if got, err := lsm.RawFileLabel(tt.file.Host); err != nil || got != at(tt.want) {
				t.Errorf("label %s, %v, want %s", got, err, at(tt.want))
			}
		})
	}
}

// TestCopyOfASecret: a file that root alone may read is not shown to a guest by a mount at
// /etc/hosts. One with the label that the engine gives its own files is, and so is the sandbox's.
func TestCopyOfASecret(t *testing.T) {
	f := newFake(t)
	d, id := reserve(t, f.options("default/one"))
	own := "system_u:object_r:cloister_rootfs_t:" + id.Label.Range.High.String()
	engines, err := labels.Parse("system_u:object_r:container_file_t:s0:c1,c2")
	if err != nil {
		t.Fatal(err)
	}
	for text, want := range map[string]error{
		"system_u:object_r:ssh_home_t:s0": labels.ErrWish, "system_u:object_r:cloister_content_t:s0": labels.ErrWish,
		engines.String(): nil, own: nil,
	} {
		file := File{Kind: Copy, Host: f.open(false, text), Label: engines}
		if err := d.Admit(t.Context(), file); !errors.Is(err, want) {
			t.Errorf("Admit of a copy of %s, which root alone may read = %v, want %v", text, err, want)
		}
	}
}

// TestAdmitDecidesAboutTheOpenFile puts another file in the place of one that was opened before it
// is labelled.
func TestAdmitDecidesAboutTheOpenFile(t *testing.T) {
	const before = "system_u:object_r:home_t:s0"
	f := newFake(t)
	d, id := reserve(t, f.options("default/one"))
	victim := f.open(false, before)
	file := f.open(true, before)
	if err := errors.Join(os.Rename(file.Name(), file.Name()+".aside"), os.Symlink(victim.Name(), file.Name())); err != nil {
		t.Fatal(err)
	}
	if err := d.Admit(t.Context(), File{Kind: Folder, Host: file, Sharing: labels.Private}); err != nil {
		t.Fatal(err)
	}
	below, err := os.OpenFile(file.Name()+".aside/below", unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer below.Close()
	for _, g := range []*os.File{file, below} {
		if got, err := lsm.RawFileLabel(g); err != nil || got != id.Files.String() {
			t.Errorf("label of the opened %s is %s, %v, want %v", g.Name(), got, err, id.Files)
		}
	}
	if got, err := lsm.RawFileLabel(victim); err != nil || got != before {
		t.Errorf("label of what the link leads to is %s, %v, want %s", got, err, before)
	}
	if err := d.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got, err := lsm.RawFileLabel(below); err != nil || got != before {
		t.Errorf("label after the release is %s, %v, want %s", got, err, before)
	}
}

func TestNone(t *testing.T) {
	f := newFake(t)
	f.write("selinux/enforce", "0")
	o := f.options("default/one")
	o.Config.MAC = "none"
	d, id := reserve(t, o)
	if _, other := reserve(t, Options{Config: o.Config, Root: o.Root, Host: o.Host, Sandbox: "default/two"}); id.Level == other.Level ||
		id.Level.Categories.Len() != 2 {
		t.Errorf("levels %v and %v, want two pairs", id.Level, other.Level)
	}
	if !id.Label.IsZero() || !id.Files.IsZero() {
		t.Errorf("identity %+v, want no labels", id)
	}
	for sharing, ok := range map[labels.Sharing]bool{"": true, labels.Keep: true, labels.Private: false, labels.Shared: false} {
		if err := d.Admit(t.Context(), File{Kind: Folder, Host: os.Stdin, Sharing: sharing}); (err == nil) != ok ||
			!ok && !errors.Is(err, labels.ErrWish) {
			t.Errorf("Admit as %q = %v, want ok %t", sharing, err, ok)
		}
	}
	f.process(50, "")
	if err := d.Verify(t.Context(), Process{PID: 50, Program: f.program()}); err != nil {
		t.Error(err)
	}
	f.write("selinux/enforce", "1")
	if err := d.Verify(t.Context(), Process{PID: 50, Program: f.program()}); !errors.Is(err, lsm.ErrEnforcing) {
		t.Errorf("Verify on a host that has begun to enforce = %v, want %v", err, lsm.ErrEnforcing)
	}
	if _, err := d.Exec(Machine); !errors.Is(err, lsm.ErrEnforcing) {
		t.Errorf("Exec = %v, want %v", err, lsm.ErrEnforcing)
	}
	if err := d.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := Open(o); !errors.Is(err, lsm.ErrEnforcing) {
		t.Errorf("Open = %v, want %v", err, lsm.ErrEnforcing)
	}
	f.write("selinux/enforce", "0")
	o.Annotations = oci.LabelSettings{Share: "a"}
	if _, err := Open(o); err == nil {
		t.Error("Open with annotations about labels: no error")
	}
	if len(f.calls) != 0 {
		t.Errorf("labels set: %q", f.calls)
	}
}

// TestRecover: what a sandbox of a dead shim holds is found and given back, and a living one's is
// not.
func TestRecover(t *testing.T) {
	if enabled, err := (lsm.Host{}).Enabled(); err != nil || enabled {
		t.Skip("asks the real host, which must not label")
	}
	o := Options{Config: Config{MAC: "none"}, Root: t.TempDir(), Sandbox: "default/one"}
	_, id := reserve(t, o)
	for sandbox, want := range map[string]bool{"default/one": true, "default/two": false} {
		if held, err := Held(o.Config, o.Root, sandbox); err != nil || held != want {
			t.Errorf("Held(%s) = %t, %v, want %t", sandbox, held, err, want)
		}
	}
	if err := Recover(t.Context(), o.Config, o.Root, o.Sandbox); err != nil {
		t.Fatal(err)
	}
	if held, err := Held(o.Config, o.Root, o.Sandbox); err != nil || !held {
		t.Errorf("the level of a living shim was taken: %t, %v", held, err)
	}
	// The shim dies: its start time is another process's.
	self, err := sys.Self()
	if err != nil {
		t.Fatal(err)
	}
	pair, _ := id.Level.Pair()
	entry := filepath.Join(o.Root, "mcs", self.Boot, "pairs", pair.String())
	text, err := os.ReadFile(entry)
	if err != nil {
		t.Fatal(err)
	}
	dead := strings.Replace(string(text), fmt.Sprintf(`"start":%d`, self.Start), `"start":1`, 1)
	if err := os.WriteFile(entry, []byte(dead), 0o600); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := Recover(t.Context(), o.Config, o.Root, o.Sandbox); err != nil {
			t.Fatal(err)
		}
	}
	if held, err := Held(o.Config, o.Root, o.Sandbox); err != nil || held {
		t.Errorf("the level of a dead shim is held: %t, %v", held, err)
	}
}
