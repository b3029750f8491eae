// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// dangerous are calls that reach other processes, the host's kernel or what is mounted. Without
// a filter nothing comes of them when their arguments are all ones.
func dangerous() []string {
	return []string{
		"ptrace", "process_vm_readv", "process_vm_writev", "pidfd_getfd", "pidfd_send_signal", "kill", "tkill", "kcmp",
		"mount", "umount2", "fsopen", "fsmount", "fsconfig", "fspick", "move_mount", "open_tree", "mount_setattr", "pivot_root", "chroot",
		"init_module", "finit_module", "delete_module", "kexec_load", "kexec_file_load", "bpf", "perf_event_open", "userfaultfd",
		"io_uring_setup", "io_uring_enter", "io_uring_register", "keyctl", "add_key", "request_key",
		"mknod", "mknodat", "open_by_handle_at", "unshare", "setns", "iopl", "ioperm", "swapon", "quotactl", "acct", "syslog",
		"socket", "connect", "bind", "listen", "fanotify_init", "personality",
	}
}

func TestDangerousCallsAreNotInTheLists(t *testing.T) {
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	servers := []string{"chroot", "mknodat"} // by its capabilities; mknod itself is not needed
	for _, name := range dangerous() {
		if _, known := info.SyscallNames[name]; !known && info.Name == arch.X86_64.Name {
			t.Errorf("%s is no system call: nothing would be tested", name)
		}
		if slices.Contains(callsOfQEMU().names, name) {
			t.Errorf("QEMU may make %s", name)
		}
		if slices.Contains(callsOfVirtiofsd().names, name) != slices.Contains(servers, name) {
			t.Errorf("virtiofsd may make %s: want %t", name, slices.Contains(servers, name))
		}
	}
}

func TestListsNameSystemCalls(t *testing.T) {
	info, err := arch.GetInfo("")
	if err != nil {
		t.Fatal(err)
	}
	if info.Name != arch.X86_64.Name {
		t.Skip("the lists have calls of older processors, which others lack")
	}
	for _, name := range append(callsOfQEMU().names, callsOfVirtiofsd().names...) {
		if _, known := info.SyscallNames[name]; !known {
			t.Errorf("%s is no system call", name)
		}
	}
}

// attempts has the test's program make calls; see TestMakeCalls.
const attempts = "JAIL_TEST_CALLS"

// TestMakeCalls is no test but the program that others start in a jail.
func TestMakeCalls(*testing.T) {
	info, err := arch.GetInfo("")
	if os.Getenv(attempts) == "" || err != nil {
		return
	}
	const bad = ^uintptr(0)
	for name := range strings.SplitSeq(os.Getenv(attempts), ",") {
		_, _, errno := unix.RawSyscall6(uintptr(info.SyscallNames[name]), bad, bad, bad, bad, bad, bad)
		fmt.Printf("made %s %d\n", name, errno)
	}
}

// makeCalls starts the test's program in a jail and gives the error of each call.
func makeCalls(t *testing.T, j Jail, names []string) map[string]unix.Errno {
	t.Helper()
	out := again(t, j, "TestMakeCalls", attempts+"="+strings.Join(names, ","), nil)
	made := map[string]unix.Errno{}
	for line := range strings.Lines(out) {
		var name string
		var errno uint
		if n, _ := fmt.Sscanf(line, "made %s %d", &name, &errno); n == 2 {
			made[name] = unix.Errno(errno)
		}
	}
	if len(made) != len(names) {
		t.Fatalf("%d of %d calls were made:\n%s", len(made), len(names), out)
	}
	return made
}

// TestCallsOutsideOfTheListFail makes each call for real, in the filter and without it.
func TestCallsOutsideOfTheListFail(t *testing.T) {
	testenv.NeedRoot(t)
	qemu, server := callsOfQEMU(), callsOfVirtiofsd()
	logged := qemu
	logged.Log = true
	without := makeCalls(t, Jail{}, dangerous())
	log := makeCalls(t, Jail{Calls: &logged, NoNewPrivs: true}, dangerous())
	files := makeCalls(t, Jail{Calls: &server, NoNewPrivs: true}, dangerous())
	for name, errno := range makeCalls(t, Jail{Calls: &qemu, NoNewPrivs: true}, dangerous()) {
		if errno != unix.EPERM {
			t.Errorf("%s in QEMU's filter = %v, want %v", name, errno, unix.EPERM)
		}
		if slices.Contains(server.names, name) {
			continue
		}
		if files[name] != unix.EPERM {
			t.Errorf("%s in virtiofsd's filter = %v, want %v", name, files[name], unix.EPERM)
		}
		if log[name] != without[name] {
			t.Errorf("%s in a filter that only logs = %v, without %v", name, log[name], without[name])
		}
	}
	denied := 0
	for _, errno := range without {
		if errno == unix.EPERM {
			denied++
		}
	}
	if denied > len(without)/4 { // a host without some capabilities, as a container is, denies some by itself
		t.Errorf("%d of %d calls fail without a filter: the test shows little: %v", denied, len(without), without)
	}
	if errno := makeCalls(t, Jail{Calls: &qemu, NoNewPrivs: true}, []string{"clone3"})["clone3"]; errno != unix.ENOSYS {
		t.Errorf("clone3 = %v, want %v", errno, unix.ENOSYS)
	}
}

// TestFiltersAreReadBack starts a program that installs no filter of its own.
func TestFiltersAreReadBack(t *testing.T) {
	testenv.NeedRoot(t)
	one, two := callsOfQEMU(), callsOfQEMU()
	one.OwnFilters = 0
	start := func(calls *Calls) int {
		r, _ := pipe(t)
		cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "cat"))
		cmd.Stdin = r
		if err := (Jail{Calls: calls, NoNewPrivs: true}).Start(cmd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		return cmd.Process.Pid
	}
	filtered, free := start(&one), start(nil)
	for _, tt := range []struct {
		name string
		want Calls
		pid  int
		ok   bool
	}{
		{"filtered", one, filtered, true},
		{"not filtered", one, free, false},
		{"without the program's own", two, filtered, false},
	} {
		if err := (Jail{Calls: &tt.want}).Verify(tt.pid); (err == nil) != tt.ok || err != nil && !errors.Is(err, ErrEscaped) {
			t.Errorf("%s: Verify = %v, want it verified: %t", tt.name, err, tt.ok)
		}
	}
}
