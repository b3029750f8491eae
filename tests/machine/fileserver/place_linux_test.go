// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	sandboxhost "cloister/sandbox/host"
	"cloister/sandbox/jail"
	"cloister/sandbox/prove"
	"cloister/tests/machine/served"
	"cloister/tests/testenv"
	"cloister/vmm/virtiofsd"
)

// Layers that are not the jail's.
const (
	mounts prove.Layer = "mounts" // of the tree: read-only, nodev, nosuid, and not to be moved
	checks prove.Layer = "server" // what the server itself looks at
)

// Variables by which a lab runs this package on its host.
const (
	macVariable      = "TEST_MAC"      // the mandatory access control that confines the server; none without it
	attackerVariable = "TEST_ATTACKER" // a built attacker, whose file has the server's label
	reportVariable   = "TEST_REPORT"   // file that gets the report as JSON
)

// place is where the file server of a sandbox is: its jail, cgroup, and domain or profile. All
// servers and attackers of a test share one identity and one tree, one after the other.
type place struct {
	mac     string
	driver  confine.Driver // nil without a mandatory access control
	group   *cgroup.Group
	dir     string // of the tree
	program string // the attacker
	binary  string // the server
	kind    virtiofsd.Kind
}

func newPlace(t *testing.T) *place {
	t.Helper()
	testenv.NeedRoot(t)
	p := &place{mac: cmp.Or(os.Getenv(macVariable), string(confine.None)), program: os.Getenv(attackerVariable)}
	p.dir = filepath.Join(t.TempDir(), "tree")
	if p.program == "" {
		p.program = build(t)
	}
	var err error
	if p.binary, p.kind, err = virtiofsd.Find(t.Context(), served.Binary(t)); err != nil {
		t.Fatal(err)
	}
	if p.group, err = cgroup.At(fmt.Sprintf("/cloister-fileserver-%d", os.Getpid())); err != nil {
		t.Fatal(err)
	}
	devices := []cgroup.Device{{Major: 1, Minor: 3}, {Major: 1, Minor: 9}, {Major: 10, Minor: 232}}
	if err := p.group.Create(cgroup.Limits{Pids: 1024, Devices: devices}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.group.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	if p.mac != string(confine.None) {
		p.confine(t)
	}
	return p
}

// confine reserves an identity as a sandbox does.
func (p *place) confine(t *testing.T) {
	t.Helper()
	c := confine.Config{MAC: p.mac}
	wish, err := confine.Wish(confine.MAC(p.mac), c, oci.LabelSettings{}, oci.Labels{})
	if err != nil {
		t.Fatal(err)
	}
	programs, err := sandboxhost.Programs("", p.binary)
	if err != nil {
		t.Fatal(err)
	}
	p.driver, err = confine.Open(confine.Options{
		Config: c, Root: "/var/lib/cloister", Sandbox: "lab/fileserver", Tenant: "lab", Wish: wish, Types: wish.Candidates(true),
		Programs: programs, Share: filepath.Join(p.dir, "view"), Attacker: p.program,
	})
	if err != nil {
		t.Fatal(err)
	}
	id, err := p.driver.Reserve(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the file server has %s, level %v, profile %q", id.MAC, id.Level, id.Profile)
	t.Cleanup(func() {
		if err := p.driver.Release(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
}

// parts are the parts of the jail that make a layer.
func parts(l prove.Layer) []jail.Part {
	if l == prove.User {
		return []jail.Part{jail.Users, jail.Capabilities, jail.NoNewPrivs}
	}
	return map[prove.Layer][]jail.Part{
		prove.Seccomp: {jail.Seccomp}, prove.Landlock: {jail.Landlock}, prove.Root: {jail.RootDir},
		prove.Namespaces: {jail.Namespaces}, prove.Cgroup: {jail.Devices, jail.RLimits},
	}[l]
}

// layers are those of the place, but for the tree's mounts.
func (p *place) layers() []prove.Layer {
	return slices.DeleteFunc(prove.All(), func(l prove.Layer) bool {
		return l == prove.MAC && p.driver == nil || l == prove.Landlock && jail.LandlockABI() == 0
	})
}

// jail is a file server's, with some layers alone. It has a mount namespace of its own in any case,
// which keeps what is mounted in it from the tests.
func (p *place) jail(t *testing.T, h *host, with []prove.Layer) jail.Jail {
	t.Helper()
	var c jail.Config
	for _, l := range prove.All() {
		if !slices.Contains(with, l) {
			c.Disable = append(c.Disable, parts(l)...)
		}
	}
	j := jail.ForVirtiofsd(c).MayOpen(c, jail.Files{Tree: h.view})
	var err error
	if j.Root, err = jail.NewRoot(true); err != nil {
		t.Fatal(err)
	}
	if c.Has(jail.Namespaces) {
		if j.PIDs, err = jail.NewPIDs(nil); err != nil {
			t.Fatal(err)
		}
	}
	if slices.Contains(with, prove.Cgroup) {
		j.Group = p.group
	}
	if slices.Contains(with, prove.MAC) {
		j.Label = func() (unset func(), err error) { return p.driver.Exec(confine.FileServer) }
	}
	return j
}

// sockets runs create where new sockets may be used by the server.
func (p *place) sockets(create func() error) error {
	if p.driver == nil {
		return create()
	}
	return p.driver.Sockets(create)
}

// admit has the server use a file.
func (p *place) admit(t *testing.T, kind confine.Kind, f *os.File) {
	t.Helper()
	if p.driver == nil {
		return
	}
	if err := p.driver.Admit(t.Context(), confine.File{Kind: kind, Host: f}); err != nil {
		t.Fatal(err)
	}
}

// admitTree labels a tree as what a guest is shown.
func (p *place) admitTree(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			return err
		}
		p.admit(t, confine.Share, f)
		return f.Close()
	})
	if err != nil {
		t.Fatal(err)
	}
}

// settle has a process leave the host's root, and reads back what has all layers.
func (p *place) settle(t *testing.T, j jail.Jail, pid int, program string, top *os.File, with []prove.Layer) {
	t.Helper()
	if slices.Contains(with, prove.Root) {
		if err := errors.Join(j.Root.Pivot(top), jail.VerifyRoot(pid, top)); err != nil {
			t.Fatal(err)
		}
	}
	if len(with) != len(p.layers()) {
		return
	}
	if err := j.Verify(pid); err != nil {
		t.Fatal(err)
	}
	if p.driver == nil {
		return
	}
	if err := p.driver.Verify(t.Context(), confine.Process{Role: confine.FileServer, PID: pid, Program: program}); err != nil {
		t.Fatal(err)
	}
}

// serve starts the file server with some layers, and a guest's kernel before it.
func (p *place) serve(t *testing.T, h *host, with []prove.Layer) {
	t.Helper()
	j := p.jail(t, h, with)
	top, err := j.Root.Folder(h.view)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	dir := t.TempDir()
	log, err := os.OpenFile(filepath.Join(dir, "virtiofsd.log"), os.O_RDWR|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	p.admit(t, confine.State, log)
	server, err := virtiofsd.Start(t.Context(), virtiofsd.Config{
		Binary: p.binary, Kind: p.kind, Starter: j, Sockets: p.sockets, Source: top, Dir: dir, Log: log,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Stop() })
	h.server = &served.Server{Process: server, Jail: j, Served: top, Log: log.Name()}
	f, err := connect(server.Socket(), func(memory *os.File) { p.admit(t, confine.Memory, memory) })
	if err != nil {
		text, _ := os.ReadFile(log.Name())
		t.Fatalf("with %v: %v\n%s", with, err, text)
	}
	t.Cleanup(f.close)
	h.guest = &guest{front: f, ended: server.Done()}
	if err := h.guest.begin(); err != nil {
		t.Fatalf("with %v: %v", with, err)
	}
	p.settle(t, j, server.Pid(), p.binary, top, with)
}

// build builds the attacker into a folder of the test's.
func build(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "attacker")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, "cloister/tests/machine/fileserver/attacker")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build attacker: %v\n%s", err, out)
	}
	return program
}
