// SPDX-License-Identifier: Apache-2.0

package attacks

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/hypervisor"
	"cloister/sandbox/jail"
	"cloister/sandbox/prove"
	"cloister/tests/testenv"
	"cloister/tests/threats"
)

// alone is a place in the jail, without a sandbox.
type alone struct {
	vm    *hypervisor.VM
	empty *os.File
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

func (a alone) Start(ctx context.Context, cmd *exec.Cmd, r confine.Role, with []prove.Layer) (prove.Process, error) {
	s := hypervisor.StandIn{Role: r, Group: slices.Contains(with, prove.Cgroup)}
	for _, l := range prove.All() {
		if !slices.Contains(with, l) {
			s.Jail.Disable = append(s.Jail.Disable, parts(l)...)
		}
	}
	if slices.Contains(with, prove.Root) {
		s.Empty = a.empty
	}
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "ours"), os.NewFile(uintptr(fds[1]), "theirs")
	defer theirs.Close()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = theirs, theirs, theirs
	if err := a.vm.Replace(ctx, cmd, s); err != nil {
		return nil, errors.Join(err, ours.Close())
	}
	return prove.Started(cmd, ours), nil
}

// TestJailAlone attacks from the jail without a guest, a driver and a network namespace. Each layer
// is tried alone; attacks that one layer alone stops are listed in docs/threats.md.
func TestJailAlone(t *testing.T) {
	testenv.NeedRoot(t)
	console := filepath.Join(t.TempDir(), "console")
	if err := os.WriteFile(console, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(testenv.Build(t), "cloister")
	layers := []prove.Layer{prove.User, prove.Seccomp, prove.Landlock, prove.Root, prove.Namespaces, prove.Cgroup}
	r, err := prove.Run(t.Context(), prove.Site{
		MAC: "none", Layers: layers, Attacker: []string{program, "prove-attacker"}, Victim: []string{program, "prove-victim"},
		From: newAlone(t, 1), Peer: newAlone(t, 2), PeerFiles: map[string]string{"console": console},
	})
	if err != nil {
		t.Fatal(err)
	}
	var table strings.Builder
	if err := r.Write(&table); err != nil {
		t.Fatal(err)
	}
	t.Log(table.String())
	threats.Check(t, r)
}

func newAlone(t *testing.T, rank int) alone {
	t.Helper()
	owner, err := jail.Config{}.Owner(rank, false)
	if err != nil {
		t.Fatal(err)
	}
	group, err := cgroup.At(fmt.Sprintf("/cloister-alone-%d-%d", os.Getpid(), rank))
	if err != nil {
		t.Fatal(err)
	}
	devices := []cgroup.Device{{Major: 1, Minor: 3}, {Major: 1, Minor: 9}, {Major: 10, Minor: 232}}
	if err := group.Create(cgroup.Limits{Pids: 1024, Devices: devices}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := group.Remove(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
	})
	empty, err := os.OpenFile(t.TempDir(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = empty.Close() })
	return alone{hypervisor.New(hypervisor.Config{Owner: owner, Group: group, Marker: "CLOISTER_ALONE=1"}), empty}
}
