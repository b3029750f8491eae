// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/jail"
	"cloister/tests/testenv"
)

// TestVerifyReadsBothJailsBack starts processes without one part of the jail at a time. Landlock
// and the devices cannot be read back.
func TestVerifyReadsBothJailsBack(t *testing.T) {
	f := newFakes(t)
	if err := f.start(t, true).Verify(t.Context()); err != nil {
		t.Fatalf("the whole jail: %v", err)
	}
	both := []confine.Role{confine.Machine, confine.FileServer}
	for _, tt := range []struct {
		part  jail.Part
		roles []confine.Role
		want  string
	}{
		{jail.Users, both[:1], "Uid is"},
		{jail.Capabilities, both, "Cap"},
		{jail.NoNewPrivs, both, "NoNewPrivs is"},
		{jail.Seccomp, both, "Seccomp"},
		{jail.Namespaces, both, "namespace"},
		{jail.RootDir, both[:1], "root directory"},
		{jail.RLimits, both, "Max"},
	} {
		less := f.start(t, true, tt.part)
		for _, role := range tt.roles {
			checkEscaped(t, less.expecting(f.config, role), role, string(tt.part), tt.want)
		}
	}
	whole, other := f.start(t, true), f.config
	other.Group = group(t, "other")
	for _, role := range both {
		checkEscaped(t, whole.expecting(other, role), role, "another cgroup", "cgroup")
	}
	whole.config.Driver = driver{verified: unix.EACCES}
	if err := whole.Verify(t.Context()); !errors.Is(err, unix.EACCES) {
		t.Errorf("Verify with a driver that finds a wrong label = %v, want %v", err, unix.EACCES)
	}
}

// expecting is a VM of the same processes, one of which should have been started with c. Nothing is
// expected of the other.
func (v *VM) expecting(c Config, r confine.Role) *VM {
	want := New(c)
	want.Machine, want.Files, want.fileBytes = v.Machine, v.Files, v.fileBytes
	j := want.jailOf(r)
	if r == confine.Machine {
		j = j.SeesOnly(c.Jail, jail.Tree{})
	}
	j.Root, j.PIDs = v.jails[r].Root, v.jails[r].PIDs
	want.jails[r] = j
	return want
}

func checkEscaped(t *testing.T, v *VM, r confine.Role, name, text string) {
	t.Helper()
	err := v.Verify(t.Context())
	if !errors.Is(err, jail.ErrEscaped) || !strings.HasPrefix(err.Error(), string(r)+": ") || !strings.Contains(err.Error(), text) {
		t.Errorf("%s without %s: Verify = %v, want %v and %q", r, name, err, jail.ErrEscaped, text)
	}
}

// TestJailOf looks at what a process's jail has of its sandbox.
func TestJailOf(t *testing.T) {
	const size = 1 << 20
	for _, tt := range []struct {
		name    string
		role    confine.Role
		disable []jail.Part
		network bool
		limit   uint64
	}{
		{"QEMU", confine.Machine, nil, true, size},
		{"QEMU without limits", confine.Machine, []jail.Part{jail.RLimits}, true, 0},
		{"virtiofsd", confine.FileServer, nil, false, 0},
		{"virtiofsd in the host's namespaces", confine.FileServer, []jail.Part{jail.Namespaces}, true, 0},
	} {
		c := Config{Network: os.Stdin, Group: &cgroup.Group{}, OOMScore: 7, Marker: "A=b", Jail: jail.Config{Disable: tt.disable}}
		v := New(c)
		v.fileBytes = size
		j := v.jailOf(tt.role)
		if (j.Network == c.Network) != tt.network || j.Limits.FileBytes != tt.limit || j.Group != jail.Group(c.Group) ||
			j.OOMScore != c.OOMScore || !slices.Equal(j.Env, []string{c.Marker}) || j.Label == nil {
			t.Errorf("%s: jail %+v, want its network namespace %t, files of %d bytes, and the cgroup, score, marker and label",
				tt.name, j, tt.network, tt.limit)
		}
	}
}

// TestLeaveHost looks at the root directories of both processes. A process that has another one
// than the namespace's is an error.
func TestLeaveHost(t *testing.T) {
	f := newFakes(t)
	empty, err := os.OpenFile(t.TempDir(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer empty.Close() // O_PATH
	v := f.start(t, true)
	if err := v.LeaveHost(t.Context(), empty); err != nil {
		t.Fatal(err)
	}
	for pid, want := range map[int]string{v.Machine.Pid(): "", v.Files.Pid(): "shared"} {
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/root/", pid))
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		if got := strings.Join(names, " "); err != nil || got != want {
			t.Errorf("root directory of %d = %q, %v, want %q", pid, got, err, want)
		}
	}
	f.config.Marker = fakeEnv + "=elsewhere"
	for _, tt := range []struct {
		role    confine.Role
		disable []jail.Part // what keeps it where it is
	}{
		{confine.Machine, []jail.Part{jail.Users, jail.Capabilities, jail.Seccomp}},
		{confine.FileServer, nil},
	} {
		v := f.start(t, tt.role == confine.FileServer, tt.disable...)
		if err := v.LeaveHost(t.Context(), empty); !errors.Is(err, jail.ErrEscaped) {
			t.Errorf("%s with another root directory: LeaveHost = %v, want %v", tt.role, err, jail.ErrEscaped)
		}
	}
}

// TestFirmwareFolders: a program of /usr/bin has its firmware where all have it.
func TestFirmwareFolders(t *testing.T) {
	usual, local := firmware("/usr/bin/qemu"), firmware("/usr/local/bin/qemu")
	if !slices.Contains(local, "/usr/share/seabios") || !slices.Contains(local, "/usr/local/share/seabios") {
		t.Errorf("firmware of a program in /usr/local/bin: %q, want both folders", local)
	}
	slices.Sort(usual)
	if once := slices.Compact(slices.Clone(usual)); !slices.Equal(usual, once) {
		t.Errorf("firmware of a program in /usr/bin: %q, want %q", usual, once)
	}
}

// TestFirmwareOfOthersIsRefused has QEMU look for its firmware where all users may write.
func TestFirmwareOfOthersIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	share := filepath.Join(dir, "share")
	for mode, want := range map[os.FileMode]string{0o755: "", 0o777: "QEMU's firmware: " + share + ", on the way to "} {
		if err := errors.Join(os.MkdirAll(share, 0o755), os.Chmod(share, mode)); err != nil {
			t.Fatal(err)
		}
		err := TrustedFirmware(filepath.Join(dir, "bin/qemu"))
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("with mode %o: %v, want %q", mode, err, want)
		}
	}
}
