// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"
	"math"
	"os"
	"strconv"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// PIDs is a pid namespace for one process, which is not its first: the kernel kills the first
// process of a namespace by no signal of its own, and the signal of a closed socket ends QEMU with
// its shim. The first process is this program, stopped before its first instruction as a debugger
// does it. When it ends, the kernel kills all others of the namespace. The nil PIDs is the host's
// namespace. The process sees its own namespace alone: it can neither name nor signal the host's.
type PIDs struct {
	ns    *os.File
	ended chan struct{} // closed with the PIDs
	once  sync.Once
}

// NewPIDs makes the namespace. env is the environment of its first process, by which it is found
// after a crash. A Jail that is started with it closes it when its process ends; without one the
// caller calls Close. The first process has the sandbox's mark in its environment, as all helpers
// have.
func NewPIDs(env []string) (*PIDs, error) {
	p := &PIDs{ended: make(chan struct{})}
	ready := make(chan error, 1)
	go func() {
		// The first process ends with the thread that has started it.
		if err := sys.OnThread(func() error { return p.serve(env, ready) }); err != nil {
			ready <- err
		}
	}()
	if err := <-ready; err != nil {
		return nil, fmt.Errorf("pid namespace: %w", err)
	}
	return p, nil
}

// serve runs on the thread that is the first process's parent and tracer, and returns when the
// namespace ends.
func (p *PIDs) serve(env []string, ready chan<- error) error {
	// It inherits nothing: it would keep open what others wait for the end of.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close on exec: %w", err)
	}
	// Its own, which emptyRoot changes. Private: no mount of it appears outside.
	if err := unshareMounts(unix.MS_PRIVATE); err != nil {
		return err
	}
	// Ptrace stops it at its exec.
	first, err := os.StartProcess("/proc/self/exe", []string{"cloister-pids"}, &os.ProcAttr{Env: env, Dir: "/", Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWPID, Ptrace: true, Pdeathsig: unix.SIGKILL,
	}})
	if err != nil {
		return fmt.Errorf("first process: %w: the host's sysctls user.max_pid_namespaces and kernel.yama.ptrace_scope (below 3) "+
			"must allow it, or name %q in jail.disable", err, Namespaces)
	}
	p.ns, err = os.Open("/proc/" + strconv.Itoa(first.Pid) + "/ns/pid")
	if err == nil {
		if err = emptyRoot(first.Pid); err != nil {
			_ = p.ns.Close() // nothing is buffered
		}
	}
	if err == nil {
		ready <- nil
		<-p.ended
	}
	_ = first.Kill() // an error means that it has ended
	_, waitErr := first.Wait()
	return errors.Join(err, waitErr)
}

// emptyRoot makes an empty folder the root directory of this thread and of the first process, and
// reads that back. The first process has started and opens nothing. It is root's, and the others
// of the namespace find it in their /proc: /proc/1/root would lead to the host's root directory. A
// root that nothing can replace stays: replacing it gives EINVAL, for QEMU as well, and there
// Config.RootError decides whether the sandbox starts.
func emptyRoot(first int) error {
	top, err := newTree("")
	if err == nil {
		defer top.Close() // O_PATH
		err = setAttr(top, treeData, 0)
	}
	if err == nil {
		if err = replaceRoot(int(top.Fd())); errors.Is(err, unix.EINVAL) {
			return nil
		}
	}
	if err == nil { // on another thread: this one has no /proc any more
		err = sys.OnThread(func() error { return VerifyRoot(first, top) })
	}
	if err != nil {
		return fmt.Errorf("root directory of the first process: %w", err)
	}
	return nil
}

// Close ends the namespace and every process in it. It may be repeated.
func (p *PIDs) Close() error {
	if p == nil {
		return nil
	}
	p.once.Do(func() {
		close(p.ended)
		_ = p.ns.Close() // nothing is buffered
	})
	return nil
}

// enter has the next process that the calling thread starts be in the namespace. The thread must be
// one of sys.OnThread's. The calling thread itself stays where it is: setns changes the pid
// namespace of children alone.
func (p *PIDs) enter() error {
	if p == nil {
		return nil
	}
	if err := unix.Setns(int(p.ns.Fd()), unix.CLONE_NEWPID); err != nil {
		return fmt.Errorf("enter pid namespace: %w", err)
	}
	return nil
}

// ownProc mounts a /proc that has the processes of the namespace alone over the calling thread's.
// Both file servers read limits of /proc/sys; nothing of it can be written to. The thread has
// entered the namespace and a mount namespace.
func ownProc() error {
	var at [3]*byte
	for i, s := range []string{"proc", "/proc", "hidepid=2"} {
		var err error
		if at[i], err = unix.BytePtrFromString(s); err != nil {
			return err
		}
	}
	// No signal may find the child, which is a copy of this program with one thread.
	var all, before unix.Sigset_t
	for i := range all.Val {
		all.Val[i] = math.MaxUint64
	}
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &all, &before); err != nil {
		return err
	}
	// The strings were made before: the child must not allocate.
	pid, errno := forkMount(at[0], at[1], at[2])
	if err := unix.PthreadSigmask(unix.SIG_SETMASK, &before, nil); err != nil {
		return err
	}
	if errno != 0 {
		return fmt.Errorf("fork in a pid namespace: %w", errno)
	}
	var status unix.WaitStatus
	for {
		// By its pid: the shim may have other children, which others wait for.
		_, err := unix.Wait4(int(pid), &status, 0, nil)
		if err == nil {
			break
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for the mount of /proc: %w", err)
		}
	}
	if status.ExitStatus() != 0 {
		return fmt.Errorf("mount /proc of a pid namespace: %w", unix.Errno(status.ExitStatus()))
	}
	return nil
}

// forkMount mounts in a child, since a /proc shows the pid namespace of who mounts it. The child
// makes two system calls: nothing else of the runtime works in it. Its status is the mount's error.
//
//go:norace
//go:noinline
func forkMount(fs, at, data *byte) (pid uintptr, errno unix.Errno) {
	pid, _, errno = unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 || pid != 0 {
		return pid, errno
	}
	const flags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	_, _, errno = unix.RawSyscall6(unix.SYS_MOUNT, uintptr(unsafe.Pointer(fs)), //nolint:gosec // the call takes pointers
		uintptr(unsafe.Pointer(at)), uintptr(unsafe.Pointer(fs)), flags, uintptr(unsafe.Pointer(data)), 0) //nolint:gosec // the same
	for {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, uintptr(errno), 0, 0)
	}
}
