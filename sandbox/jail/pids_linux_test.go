// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"cloister/sys"
	"cloister/tests/testenv"
)

// housed is a jail with a pid and a mount namespace.
func housed(t *testing.T) Jail {
	t.Helper()
	testenv.NeedRoot(t)
	root, err := NewRoot(false)
	if err != nil {
		t.Fatal(err)
	}
	pids, err := NewPIDs([]string{"MARK=x"})
	if err != nil {
		t.Fatal(errors.Join(err, root.Close()))
	}
	return Jail{Root: root, PIDs: pids}
}

// TestOwnProcShowsTheNamespaceAlone lists /proc in the jail and without it.
func TestOwnProcShowsTheNamespaceAlone(t *testing.T) {
	list := func(j Jail) []string {
		r, w := pipe(t)
		cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "ls"), "/proc")
		cmd.Stdout, cmd.Stderr = w, os.Stderr
		if err := j.Start(cmd); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		out, err := io.ReadAll(r)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Fatal(err)
		}
		return strings.Fields(string(out))
	}
	processes := func(names []string) []string {
		return slices.DeleteFunc(names, func(n string) bool { _, err := strconv.Atoi(n); return err != nil || n == "1" })
	}
	if names := processes(list(housed(t))); len(names) != 1 { // ls itself
		t.Errorf("/proc in the jail has %q beside the first process, want one process", names)
	}
	if names := processes(list(Jail{})); len(names) < 2 {
		t.Errorf("/proc without the jail has %q: the test shows nothing", names)
	}
}

// TestFirstProcessHasNoFileOfTheHost lists what a process of root's, with all capabilities, finds
// by way of the first process of its namespace.
func TestFirstProcessHasNoFileOfTheHost(t *testing.T) {
	r, w := pipe(t)
	cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "ls"), "-A", "/proc/1/root/", "/proc/1/cwd/")
	cmd.Stdout, cmd.Stderr = w, w
	if err := housed(t).Start(cmd); err != nil {
		t.Fatal(err)
	}
	_ = w.Close()
	out, err := io.ReadAll(r)
	if err := errors.Join(err, cmd.Wait()); err != nil {
		t.Error(err)
	}
	if got, want := string(out), "/proc/1/cwd/:\n\n/proc/1/root/:\n"; got != want {
		t.Errorf("ls writes %q, want %q", got, want)
	}
}

// TestFirstProcessMustLeaveTheHostsRoot has a process that keeps its root directory, and system
// calls that fail with the error of a root that nothing can replace. Only replacing it may give
// that error.
func TestFirstProcessMustLeaveTheHostsRoot(t *testing.T) {
	testenv.NeedRoot(t)
	for _, tt := range []struct {
		name  string
		fails uint32 // system call
		want  error
	}{
		{"a process that keeps its root directory", unix.SYS_REBOOT, ErrEscaped}, // a call that nobody makes
		{"fsopen", unix.SYS_FSOPEN, unix.EINVAL},
		{"mount_setattr", unix.SYS_MOUNT_SETATTR, unix.EINVAL},
		{"pivot_root", unix.SYS_PIVOT_ROOT, nil},
	} {
		var got error
		err := sys.OnThread(func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
				return err
			}
			if err := errors.Join(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""), failing(tt.fails)); err != nil {
				return err
			}
			got = emptyRoot(os.Getpid()) // the other threads stay where they are
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !errors.Is(got, tt.want) {
			t.Errorf("%s: emptyRoot = %v, want %v", tt.name, got, tt.want)
		}
	}
}

// failing has a system call of the calling thread give EINVAL.
func failing(call uint32) error {
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // its number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EINVAL)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	return unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0)
}

// TestPIDsNameTheLimitThatIsReached makes a namespace in a user namespace that allows none.
func TestPIDsNameTheLimitThatIsReached(t *testing.T) {
	testenv.NeedRoot(t)
	for limit, want := range map[string]string{
		"":                   "done",
		"max_mnt_namespaces": "mount namespace: no space left on device: the host's sysctl user.max_mnt_namespaces must allow it",
		"max_pid_namespaces": "no space left on device: the host's sysctls user.max_pid_namespaces and kernel.yama.ptrace_scope (below 3)" +
			` must allow it, or name "namespaces" in jail.disable`,
	} {
		root := []syscall.SysProcIDMap{{Size: 1}}
		got := sayAs(t, Jail{}, "pids "+limit, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: root, GidMappings: root})
		if !strings.HasSuffix(got, want) {
			t.Errorf("with %q 0: %s, want %s", limit, got, want)
		}
	}
}

// TestPIDsEndWithTheirProcesses looks at a process in its namespace, and at what Close leaves.
func TestPIDsEndWithTheirProcesses(t *testing.T) {
	j := housed(t)
	r, _ := pipe(t)
	cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "cat"))
	cmd.Stdin = r
	if err := j.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := j.Verify(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
	other := housed(t)
	t.Cleanup(func() { _ = errors.Join(other.Root.Close(), other.PIDs.Close()) })
	for name, j := range map[string]Jail{"another pid namespace": {PIDs: other.PIDs}, "another mount namespace": {Root: other.Root}} {
		if err := j.Verify(cmd.Process.Pid); !errors.Is(err, ErrEscaped) {
			t.Errorf("%s: Verify = %v, want %v", name, err, ErrEscaped)
		}
	}
	first := children(t, "MARK=x")
	if len(first) != 2 {
		t.Errorf("%d processes keep 2 pid namespaces", len(first))
	}
	if err := j.PIDs.Close(); err != nil {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || !strings.Contains(err.Error(), "killed") {
		t.Errorf("the process of a namespace that was closed: %v, want it killed", err)
	}
	if left := children(t, "MARK=x"); len(left) != 1 {
		t.Errorf("%d processes keep 1 pid namespace", len(left))
	}
}

// children are the children of this process with that in their environment.
func children(t *testing.T, mark string) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	for _, proc := range all {
		status, _ := os.ReadFile(proc + "/status")
		if statusOf(status)["PPid"] != strconv.Itoa(os.Getpid()) {
			continue
		}
		env, _ := os.ReadFile(proc + "/environ")
		if strings.Contains(string(env), mark) {
			pid, _ := strconv.Atoi(filepath.Base(proc))
			pids = append(pids, pid)
		}
	}
	return pids
}

// TestPivot has a process leave the host's root for a mount that it serves, with what is mounted in
// it later.
func TestPivot(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	for _, m := range []struct {
		source, fs string
		flags      uintptr
	}{{dir, "", unix.MS_BIND}, {"", "", unix.MS_SHARED}} {
		if err := unix.Mount(m.source, dir, m.fs, m.flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	if err := os.Mkdir(filepath.Join(dir, "later"), 0o700); err != nil {
		t.Fatal(err)
	}
	root, err := NewRoot(true)
	if err != nil {
		t.Fatal(err)
	}
	top, err := root.Folder(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	in, out := pipe(t)
	echo, written := pipe(t)
	cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "cat"))
	cmd.Dir, cmd.Stdin, cmd.Stdout = "/", in, written
	if err := (Jail{Root: root}).Start(cmd); err != nil {
		t.Fatal(err)
	}
	if _, err := out.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := echo.Read(make([]byte, 1)); err != nil { // it has loaded its libraries
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	pid := cmd.Process.Pid
	if err := VerifyRoot(pid, top); !errors.Is(err, ErrEscaped) {
		t.Errorf("before: VerifyRoot = %v, want %v", err, ErrEscaped)
	}
	if err := root.Pivot(top); err != nil {
		t.Fatal(err)
	}
	if err := VerifyRoot(pid, top); err != nil {
		t.Error(err)
	}
	if err := unix.Mount("tmpfs", filepath.Join(dir, "later"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	mounts, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/mounts")
	lines := strings.Split(strings.TrimSpace(string(mounts)), "\n")
	if err != nil || len(lines) != 2 || !strings.Contains(lines[1], " /later ") {
		t.Errorf("mounts = %s, %v, want the folder and what was mounted in it later", mounts, err)
	}
}

// settled waits until each thread of this process has that root directory. The threads of
// namespaces that earlier tests have closed may still be ending.
func settled(t *testing.T, top *os.File) {
	t.Helper()
	const patience = 2 * time.Minute
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		err := VerifyRoot(os.Getpid(), top)
		if err == nil {
			return
		}
		if !errors.Is(err, ErrEscaped) || time.Now().After(deadline) {
			t.Fatalf("the root directory of this process: VerifyRoot = %v, want nil within %v", err, patience)
		}
	}
}

// TestVerifyRootComparesTheMount: the same folder in another mount may be writable.
func TestVerifyRootComparesTheMount(t *testing.T) {
	testenv.NeedRoot(t)
	tree, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	top := os.NewFile(uintptr(tree), "/")
	defer top.Close() // O_PATH
	own, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	settled(t, own)
	if err := VerifyRoot(os.Getpid(), top); !errors.Is(err, ErrEscaped) {
		t.Errorf("VerifyRoot of a copy of the root's mount = %v, want %v", err, ErrEscaped)
	}
}

// TestVerifyRootLooksAtEveryThread: one thread that has another root is as good as all.
func TestVerifyRootLooksAtEveryThread(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	top, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close()
	settled(t, top)
	moved, looked := make(chan error), make(chan struct{})
	defer close(looked)
	go func() {
		_ = sys.OnThread(func() error {
			moved <- errors.Join(unix.Unshare(unix.CLONE_FS), unix.Chroot(dir))
			<-looked
			return nil
		})
	}()
	if err := <-moved; err != nil {
		t.Fatal(err)
	}
	if err := VerifyRoot(os.Getpid(), top); !errors.Is(err, ErrEscaped) {
		t.Errorf("with a thread in another root: VerifyRoot = %v, want %v", err, ErrEscaped)
	}
}
