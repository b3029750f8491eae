// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// PIDFD is a descriptor of one process, which its pid may outlive. Its methods may be called at
// once. A signal by pid could reach another process that got the pid in between; one by PIDFD
// cannot.
type PIDFD struct {
	file *os.File
	pid  int
}

// OpenPID opens the process that has pid now; the caller closes it. One that does not exist is
// os.ErrProcessDone. Whoever knows the process by more than its pid must check that after the open.
func OpenPID(pid int) (*PIDFD, error) {
	fd, err := unix.PidfdOpen(pid, unix.PIDFD_NONBLOCK)
	if errors.Is(err, unix.ESRCH) {
		return nil, fmt.Errorf("pidfd of %d: %w", pid, os.ErrProcessDone)
	}
	if err != nil {
		return nil, fmt.Errorf("pidfd of %d: %w", pid, err)
	}
	return &PIDFD{file: os.NewFile(uintptr(fd), fmt.Sprintf("pidfd of %d", pid)), pid: pid}, nil
}

// Signal sends a signal. A process that has been reaped is os.ErrProcessDone.
func (p *PIDFD) Signal(sig unix.Signal) error {
	err := unix.PidfdSendSignal(int(p.file.Fd()), sig, nil, 0)
	if errors.Is(err, unix.ESRCH) {
		return os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("signal %d to %d: %w", sig, p.pid, err)
	}
	return nil
}

// Wait waits until the process has ended, whoever reaps it, or until ctx has. Calls of Wait on one
// PIDFD must not overlap.
func (p *PIDFD) Wait(ctx context.Context) error {
	conn, err := p.file.SyscallConn()
	if err != nil {
		return err
	}
	if err := p.file.SetReadDeadline(time.Time{}); err != nil {
		return fmt.Errorf("wait for %d: %w", p.pid, err)
	}
	// A deadline in the past wakes the Read below. Go's poller watches the descriptor, so waiting
	// takes no thread.
	defer context.AfterFunc(ctx, func() { _ = p.file.SetReadDeadline(time.Unix(1, 0)) })()
	err = conn.Read(func(fd uintptr) bool {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		return err == nil && n > 0
	})
	switch {
	case err != nil && ctx.Err() != nil:
		return fmt.Errorf("process %d has not ended: %w", p.pid, ctx.Err())
	case err != nil:
		return fmt.Errorf("wait for %d: %w", p.pid, err)
	}
	return nil
}

// Close closes the descriptor.
func (p *PIDFD) Close() error { return p.file.Close() }
