// SPDX-License-Identifier: Apache-2.0

package child

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Private lends use the path of a unix socket that listens in a folder of its own in dir, which
// nobody else can write to. Path and folder are gone when Private returns; the listener is use's to
// keep or close. It is for libraries that can only dial a path: no other process can come first.
func Private(dir string, use func(l *net.UnixListener, path string) error) (err error) {
	private, err := os.MkdirTemp(dir, ".socket-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(private)) }()
	folder, err := os.Open(private)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, folder.Close()) }()
	// By descriptor, since a socket's path is limited to 107 bytes.
	path := filepath.Join(fmt.Sprintf("/proc/self/fd/%d", folder.Fd()), "s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return use(l, path)
}

// Dup returns another descriptor of the same open file; nil for nil. It is closed on exec, and is
// never one of the first three.
func Dup(f *os.File) (*os.File, error) {
	if f == nil {
		return nil, nil
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return nil, fmt.Errorf("duplicate %s: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// Socketpair returns the two ends of a stream socket, both closed on exec; only the first is
// non-blocking. It is a socket and no pipe, since a pipe's label cannot be chosen.
func Socketpair(name string) (host, guest *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair %s: %w", name, err)
	}
	// Non-blocking, so that Go's poller serves it and Close ends a Read.
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return nil, nil, errors.Join(err, unix.Close(fds[0]), unix.Close(fds[1]))
	}
	return os.NewFile(uintptr(fds[0]), name), os.NewFile(uintptr(fds[1]), name), nil
}
