// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"os/exec"
	"testing"

	runc "github.com/containerd/go-runc"
	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// ran is a monitor that starts nothing.
type ran struct{ runc.ProcessMonitor }

func (ran) Start(*exec.Cmd) (chan runc.Exit, error) { return make(chan runc.Exit), nil }

// TestNullIsNotTheHosts has what a container's process may do to a stream that nobody wanted leave
// the host's /dev/null as it is.
func TestNullIsNotTheHosts(t *testing.T) {
	testenv.NeedRoot(t)
	null, err := openNull("")
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	given, err := os.Create(t.TempDir() + "/out")
	if err != nil {
		t.Fatal(err)
	}
	defer given.Close()
	c := &exec.Cmd{Stdout: given}
	if _, err := (monitor{ProcessMonitor: ran{}, null: func() *os.File { return null }}).Start(c); err != nil {
		t.Fatal(err)
	}
	if c.Stdin != null || c.Stdout != given || c.Stderr != null {
		t.Errorf("streams are %v, %v, %v, want the null device for the two that were not given", c.Stdin, c.Stdout, c.Stderr)
	}
	nothing, err := runc.NewNullIO() // for a process without any stream
	if err != nil {
		t.Fatal(err)
	}
	defer nothing.Close()
	c = &exec.Cmd{}
	nothing.Set(c)
	if _, err := (monitor{ProcessMonitor: ran{}, null: func() *os.File { return null }}).Start(c); err != nil {
		t.Fatal(err)
	}
	if c.Stdin != null || c.Stdout != null || c.Stderr != null {
		t.Errorf("streams are %v, %v, %v, want the null device for all", c.Stdin, c.Stdout, c.Stderr)
	}
	stat := func(f *os.File) (st unix.Stat_t) {
		t.Helper()
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		return st
	}
	hosts, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer hosts.Close()
	before, got := stat(hosts), stat(null)
	if got.Rdev != before.Rdev || got.Mode != unix.S_IFCHR|0o666 {
		t.Errorf("the null device is %x, mode %o, want %x, mode %o", got.Rdev, got.Mode, before.Rdev, unix.S_IFCHR|0o666)
	}
	if n, err := null.Write([]byte("x")); n != 1 || err != nil {
		t.Errorf("write to it: %d, %v", n, err)
	}
	if err := null.Chown(1000, 1000); err != nil {
		t.Error(err)
	}
	if err := null.Chmod(0); err != nil {
		t.Error(err)
	}
	if after := stat(hosts); after.Uid != before.Uid || after.Mode != before.Mode {
		t.Errorf("the host's /dev/null has owner %d and mode %o now, before %d and %o", after.Uid, after.Mode, before.Uid, before.Mode)
	}
}
