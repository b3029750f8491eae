// SPDX-License-Identifier: Apache-2.0

package uevent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/held"
)

// kernelGroup is the multicast group of the kernel's own events.
const kernelGroup = 1

// Listener receives the kernel's events. What happened before Listen is not
// told: listen first, then look. One goroutine uses it.
type Listener struct {
	socket *os.File
	buf    [4096]byte
}

// Listen begins to receive. Where the agent has joined another network namespace, the socket is
// made in the first one: the kernel sends events to no namespace of another user namespace.
func Listen() (*Listener, error) {
	var l *Listener
	err := held.InFirst(func() (err error) {
		l, err = listen()
		return err
	})
	return l, err
}

// listen makes the socket in this thread's network namespace. Group 1 needs no helper in the guest:
// there is no udev.
func listen() (*Listener, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("open uevent socket: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		return nil, errors.Join(fmt.Errorf("bind uevent socket: %w", err), unix.Close(fd))
	}
	return &Listener{socket: os.NewFile(uintptr(fd), "uevent")}, nil
}

// Wait returns when something happened to some device since the last call. It may return for a
// device that nobody wants: look, and wait again. Events that arrived before the call count.
func (l *Listener) Wait(ctx context.Context) error {
	// A read on a netlink socket cannot be cancelled; the deadline ends it, and with it the
	// listener's use.
	defer context.AfterFunc(ctx, func() { _ = l.socket.SetReadDeadline(time.Unix(1, 0)) })()
	_, err := l.socket.Read(l.buf[:])
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, unix.ENOBUFS): // events were lost: look again
		return nil
	}
	return err
}

// Close ends the listener.
func (l *Listener) Close() error { return l.socket.Close() }
