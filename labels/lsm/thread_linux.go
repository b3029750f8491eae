// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"syscall"

	"cloister/labels"

	"golang.org/x/sys/unix"
)

// noSetuidFixup is SECBIT_NO_SETUID_FIXUP of linux/securebits.h.
const noSetuidFixup = 1 << 2

// Launch starts a command under a label. It is a value; its zero value refuses to start anything.
//
// There is no label for the child's sockets here: the kernel forgets attr/sockcreate at exec. Sockets that a child inherits
// are made by Driver.Sockets.
type Launch struct {
	// Driver says whether labels are used at all.
	Driver *Driver
	// Label is the process's; it must be zero with the driver "none" and must not be with "selinux".
	Label labels.Label
	// NetNS, when not nil, is the network namespace that the command is started in. It stays the caller's.
	NetNS *os.File
	// KeepCapabilities has the command keep its capabilities when it takes on another user (SECBIT_NO_SETUID_FIXUP), as a
	// file server does to make files that are that user's.
	KeepCapabilities bool
	// Enclosure, when not nil, is where the command's root can be replaced later.
	Enclosure *Enclosure
}

// Start starts cmd as cmd.Start does, with the label set for its first exec. The command must be the labelled program itself,
// with no wrapper before it. Its standard files must be *os.File: a pipe made by os/exec would carry a label that the
// program may not use. Pdeathsig works: the thread that starts the command lives as long as the command.
func (l Launch) Start(cmd *exec.Cmd) error {
	if err := l.check(cmd); err != nil {
		if l.Enclosure != nil {
			l.Enclosure.close()
		}
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	result := make(chan error, 1)
	onOwnThread(func() {
		pidfd, err := l.startHere(cmd)
		result <- err
		if err == nil {
			l.park(pidfd)
		}
		if l.Enclosure != nil {
			l.Enclosure.close()
		}
	})
	if err := <-result; err != nil {
		return fmt.Errorf("start %s: %w", cmd.Path, err)
	}
	return nil
}

func (l Launch) check(cmd *exec.Cmd) error {
	if l.Driver == nil {
		return errors.New("no driver: open one by name, \"none\" if no label is wanted")
	}
	for _, stream := range []any{cmd.Stdin, cmd.Stdout, cmd.Stderr} {
		if _, file := stream.(*os.File); stream != nil && !file {
			return fmt.Errorf("a standard file is a %T: want *os.File, since a pipe could not be used under a label", stream)
		}
	}
	return l.Driver.ready(l.Label)
}

// startHere runs on a thread that nobody else will use.
func (l Launch) startHere(cmd *exec.Cmd) (pidfd int, err error) {
	if l.NetNS != nil {
		if err := unix.Setns(int(l.NetNS.Fd()), unix.CLONE_NEWNET); err != nil {
			return -1, fmt.Errorf("enter network namespace %s: %w", l.NetNS.Name(), err)
		}
	}
	if l.KeepCapabilities {
		if err := unix.Prctl(unix.PR_SET_SECUREBITS, noSetuidFixup, 0, 0, 0); err != nil {
			return -1, fmt.Errorf("keep capabilities over a change of user: %w: the shim needs CAP_SETPCAP", err)
		}
	}
	if l.Enclosure != nil {
		if err := l.Enclosure.unshare(); err != nil {
			return -1, err
		}
	}
	if !l.Label.IsZero() {
		if err := l.Driver.host.thread().SetExec(l.Label.String()); err != nil {
			return -1, fmt.Errorf("set exec label %v: %w", l.Label, err)
		}
	}
	pidfd = -1
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.PidFD = &pidfd
	err = cmd.Start()
	cmd.SysProcAttr.PidFD = nil
	if !l.Label.IsZero() {
		// This thread starts nothing more and dies locked: a failure to clear harms nobody.
		_ = l.Driver.host.thread().SetExec("")
	}
	return pidfd, err
}

// park holds the thread until the process has ended, and serves its enclosure. A kernel without pidfds (-1, which poll leaves
// out) has it held for ever: rather a thread too many than a signal too early.
func (l Launch) park(pidfd int) {
	if pidfd >= 0 {
		defer unix.Close(pidfd) // nothing is buffered
	}
	wait := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}, {Fd: -1, Events: unix.POLLIN}}
	if l.Enclosure != nil {
		wait[1].Fd = int32(l.Enclosure.wake)
	}
	for {
		_, err := unix.Poll(wait, -1)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil || wait[0].Revents != 0:
			return
		case wait[1].Revents != 0:
			l.Enclosure.serve()
		}
	}
}

// onOwnThread runs f on a locked thread that ends with f and is not the process's first one, whose state /proc/PID shows.
func onOwnThread(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		locked := make(chan struct{})
		go lockedHere(locked, f) // cannot land here: this thread is taken
		<-locked
		runtime.UnlockOSThread() // nothing was changed on it
	}()
}

func lockedHere(locked chan<- struct{}, f func()) {
	runtime.LockOSThread()
	close(locked)
	f()
}

// Exec replaces the calling process by a program under label: for a helper that restricts itself first. It returns only on
// failure, with the label taken back. The zero label replaces without one.
func (d *Driver) Exec(label labels.Label, program string, args, env []string) error {
	if err := d.ready(label); err != nil {
		return fmt.Errorf("exec %s: %w", program, err)
	}
	runtime.LockOSThread()
	if !label.IsZero() {
		if err := d.host.thread().SetExec(label.String()); err != nil {
			return fmt.Errorf("exec %s: set exec label %v: %w", program, label, err)
		}
	}
	err := fmt.Errorf("exec %s: %w", program, unix.Exec(program, args, env))
	if !label.IsZero() {
		if clearing := d.host.thread().SetExec(""); clearing != nil {
			return errors.Join(err, clearing) // the thread stays locked
		}
	}
	runtime.UnlockOSThread()
	return err
}
