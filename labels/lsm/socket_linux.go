// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
	"fmt"
	"os"
	"syscall"

	"cloister/labels"
	"cloister/sys"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"
)

// Sockets runs create on a thread whose new sockets get label, and takes the label back. The kernel
// labels a socket when it is made, so an inherited one carries the label of whoever made it; at the
// shim's own level, QEMU could not use it. With the driver "none" the label must be zero and create
// simply runs. What create makes belongs to the caller, also when an error comes after it.
func (d *Driver) Sockets(label labels.Label, create func() error) error {
	if err := d.ready(label); err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	if label.IsZero() {
		return create()
	}
	return sys.OnThread(func() error { // the thread ends here, so what could not be cleared ends with it
		if err := d.host.thread().SetSocket(label.String()); err != nil {
			return fmt.Errorf("set socket label %v: %w", label, err)
		}
		err := create()
		return errors.Join(err, d.host.thread().SetSocket(""))
	})
}

// Socketpair is a pair of connected stream sockets, both under label, closed on exec. The label is
// read back. The caller closes both. A pipe would not do: pipefs ignores labels for new files, and
// an inherited descriptor that the policy denies becomes the null device without an error.
func (d *Driver) Socketpair(label labels.Label) (ours, theirs *os.File, err error) {
	err = d.Sockets(label, func() error {
		fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("make a socketpair: %w", err)
		}
		ours, theirs = os.NewFile(uintptr(fds[0]), "socketpair"), os.NewFile(uintptr(fds[1]), "socketpair")
		return nil
	})
	if err == nil && !label.IsZero() {
		err = d.CheckPeer(ours, label)
	}
	if err != nil && ours != nil {
		err = errors.Join(err, ours.Close(), theirs.Close())
		ours, theirs = nil, nil
	}
	return ours, theirs, err
}

// CheckPeer holds the label of the other end of a connected unix socket against want. The kernel
// takes it (SO_PEERSEC) when the two are connected, so it does not change afterwards. With the
// driver "none" there is nothing to compare.
func (d *Driver) CheckPeer(socket syscall.Conn, want labels.Label) error {
	if d.mode == ModeNone {
		return nil
	}
	got, err := d.peer(socket)
	if err != nil {
		return err
	}
	if got != want {
		return fmt.Errorf("%w: the other end of a socket is %v, want %v", ErrWrongLabel, got, want)
	}
	return nil
}

// peer asks for SO_PEERSEC without taking the descriptor out of the runtime's poller, as File
// would.
func (d *Driver) peer(socket syscall.Conn) (labels.Label, error) {
	connection, err := socket.SyscallConn()
	if err != nil {
		return labels.Label{}, fmt.Errorf("label of a peer: %w", err)
	}
	var text string
	var asked error
	if err := connection.Control(func(fd uintptr) { text, asked = d.host.peerLabel(fd) }); err != nil {
		return labels.Label{}, fmt.Errorf("label of a peer: %w", err)
	}
	if asked != nil {
		return labels.Label{}, fmt.Errorf("label of a peer: %w", asked)
	}
	label, err := labels.Parse(text)
	if err != nil {
		return labels.Label{}, fmt.Errorf("label of a peer: %w", err)
	}
	return label, nil
}

// peerLabel is SO_PEERSEC as text.
func (h Host) peerLabel(fd uintptr) (string, error) {
	if h.Peer != nil {
		return h.Peer(fd)
	}
	return selinux.PeerLabel(fd)
}
