// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/jail"
	"cloister/tests/testenv"
	"cloister/vmm"
)

// fakeEnv has the test's program play QEMU and virtiofsd. With "elsewhere" they take another root
// directory, if they may.
const fakeEnv = "FAKE_HYPERVISOR"

// The jail reads a program's first thread back, so that thread does what the program does.
func init() { runtime.LockOSThread() } //nolint:gochecknoinits // later the main goroutine may be on another thread

func TestMain(m *testing.M) {
	scenario := os.Getenv(fakeEnv)
	switch {
	case slices.Contains(os.Args, "--help"):
		fmt.Println("--shared-dir") // as the Rust server
	case scenario == "":
		os.Exit(m.Run())
	case slices.Contains(os.Args, "-S"):
		fakeJail(scenario)
		fakeQEMU()
	default:
		fakeJail(scenario)
		fakeServer()
	}
	// At once: the race detector would wait a second.
	_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
}

// fakeJail gives up what the programs give up themselves, and installs a filter as they do. What
// cannot be done is found by whoever reads the process back.
func fakeJail(scenario string) {
	if scenario == "elsewhere" {
		_ = unix.Chroot("/proc")
	}
	for _, c := range []uintptr{unix.CAP_SYS_CHROOT, unix.CAP_SETPCAP} {
		_ = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
	}
	const gone = 1<<unix.CAP_SYS_CHROOT | 1<<unix.CAP_SETPCAP
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if unix.Capget(&header, &sets[0]) == nil {
		sets[0].Permitted &^= gone
		sets[0].Effective &^= gone
		_ = unix.Capset(&header, &sets[0])
	}
	all := unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW}
	program := unix.SockFprog{Len: 1, Filter: &all}
	_ = unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// fakeQEMU answers on its monitor, descriptor 3, until that is closed.
func fakeQEMU() {
	monitor := os.NewFile(3, "qmp")
	fmt.Fprintln(monitor, `{"QMP": {"version": {"qemu": {"micro": 0, "minor": 2, "major": 7}}, "capabilities": []}}`)
	for commands := json.NewDecoder(monitor); ; {
		var command struct {
			Execute string `json:"execute"`
		}
		if commands.Decode(&command) != nil {
			return
		}
		fmt.Fprintln(monitor, `{"return": {}}`)
		if command.Execute == "quit" {
			return
		}
	}
}

// fakeServer takes its one connection, from descriptor 3, says so, and waits for its end.
func fakeServer() {
	conn, _, err := unix.Accept(3)
	if err != nil {
		return
	}
	if _, err := unix.Write(conn, []byte("x")); err == nil {
		_, _ = unix.Read(conn, make([]byte, 1))
	}
}

// driver confines nothing; verified is what it finds.
type driver struct {
	confine.Driver
	verified error
}

func (driver) Exec(confine.Role) (unset func(), err error) { return func() {}, nil }

func (driver) Sockets(create func() error) error { return create() }

func (d driver) Verify(context.Context, ...confine.Process) error { return d.verified }

// fakes are what fake processes are started with.
type fakes struct {
	config Config
	kernel string
	share  string // a mount with a file
}

// newFakes gives the whole jail, in a cgroup. The program is copied to where the sandbox's user may
// execute it.
func newFakes(t *testing.T) fakes {
	t.Helper()
	testenv.NeedRoot(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	f := fakes{kernel: filepath.Join(dir, "kernel"), share: filepath.Join(dir, "share")}
	binary := filepath.Join(dir, "program")
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Mkdir(f.share, 0o700), os.WriteFile(f.kernel, nil, 0o644),
		os.WriteFile(filepath.Join(f.share, "shared"), nil, 0o600), os.WriteFile(binary, program, 0o755),
		unix.Mount(f.share, f.share, "", unix.MS_BIND, ""), unix.Mount("", f.share, "", unix.MS_SHARED, "")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(f.share, unix.MNT_DETACH) })
	c := &f.config
	if c.Owner, err = (jail.Config{}).Owner(1, false); err != nil {
		t.Fatal(err)
	}
	c.Programs.QEMU, c.Programs.Virtiofsd, c.Driver, c.Dir, c.Marker = binary, binary, driver{}, dir, fakeEnv+"=1"
	c.Group = group(t, "jail")
	return f
}

func group(t *testing.T, name string) *cgroup.Group {
	t.Helper()
	g, err := cgroup.At(fmt.Sprintf("/cloister-hypervisor-%s-%d", name, os.Getpid()))
	if err == nil {
		err = g.Create(cgroup.Limits{})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	return g
}

// start starts QEMU, and with serve the file server, without parts of the jail.
func (f fakes) start(t *testing.T, serve bool, disable ...jail.Part) *VM {
	t.Helper()
	c := f.config
	c.Jail.Disable = disable
	if !c.Jail.Has(jail.Users) {
		c.Owner = jail.Owner{}
	}
	v := New(c)
	t.Cleanup(func() {
		if err := errors.Join(v.Stop(context.WithoutCancel(t.Context())), v.StopFiles()); err != nil {
			t.Error(err)
		}
		if v.served != nil {
			_ = v.served.Close() // O_PATH
		}
	})
	m := vmm.Machine{Name: "fake", Type: vmm.MicroVM, Accel: vmm.AccelTCG, Kernel: f.kernel, MemoryMiB: 160}
	if serve {
		m.Share = &vmm.Share{Tag: "fake"}
		if _, err := v.Serve(t.Context(), f.share, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := v.Files.Socket().Read(make([]byte, 1)); err != nil {
			t.Fatalf("the fake server does not answer: %v", err)
		}
	}
	if _, err := v.Launch(t.Context(), m, Logs{}, nil, nil); err != nil {
		t.Fatal(err)
	}
	return v
}
