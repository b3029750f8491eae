// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sys"
)

// Namespace is the network namespace that a sandbox lives in. The descriptor keeps it alive after
// the engine has unmounted it or its process has gone.
type Namespace struct {
	file   *os.File
	cards  []*card       // one for each tap, in order
	former former        // what the guest has had
	dials  chan struct{} // one slot for each thread that opens a socket for a question
}

// maxDials bounds the threads that open sockets inside the namespace at once. A thread that has
// entered another namespace is not given back to Go's scheduler, and costs a stack and a task of
// the shim's cgroup until its call returns.
const maxDials = 8

// Open takes the namespace at path; a new one when path is empty. The new one lives as long as a
// process, or the Namespace, holds it. The namespace that this process is in is the host's,
// whatever its path is: a guest would take the host's links. A path that is no network namespace is
// an error: setns would move the shim's thread into whatever it is. The Namespace is the caller's
// to close.
func Open(path string) (*Namespace, error) {
	if path == "" {
		return fresh()
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	// Asked of the descriptor, not of the path: the path may be another file's by the next call.
	kind, err := unix.IoctlRetInt(int(f.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		f.Close()
		return nil, fmt.Errorf("network namespace: %q is not one: pass the path of a netns, such as /run/netns/NAME or /proc/PID/ns/net",
			path)
	}
	if err := notOwn(f); err != nil {
		f.Close()
		return nil, err
	}
	return &Namespace{file: f, dials: make(chan struct{}, maxDials)}, nil
}

// notOwn refuses the shim's namespace by inode. Docker before 23 gives the host's as a path of its
// own, so the path tells nothing.
func notOwn(f *os.File) error {
	var own, given unix.Stat_t
	// thread-self: the main thread, which /proc/self shows, may be in a sandbox's namespace.
	if err := unix.Stat("/proc/thread-self/ns/net", &own); err != nil {
		return fmt.Errorf("network namespace of this process: %w", err)
	}
	if err := unix.Fstat(int(f.Fd()), &given); err != nil {
		return fmt.Errorf("network namespace %q: %w", f.Name(), err)
	}
	if own.Dev == given.Dev && own.Ino == given.Ino {
		return fmt.Errorf("linux.namespaces: the network namespace %q is the host's (--network host), which a guest cannot have: "+
			"give the container a network of its own: %w", f.Name(), errdefs.ErrInvalidArgument)
	}
	return nil
}

// fresh makes a namespace on a thread that ends with it, so that no other goroutine runs there by
// accident.
func fresh() (*Namespace, error) {
	n := &Namespace{dials: make(chan struct{}, maxDials)}
	err := sys.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		f, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return fmt.Errorf("new network namespace: %w", err)
		}
		n.file = f
		return nil
	})
	if err != nil {
		return nil, err
	}
	return n, nil
}

// File is the namespace's descriptor; it stays the Namespace's to close.
func (n *Namespace) File() *os.File { return n.file }

// Close lets go of the namespace.
func (n *Namespace) Close() error { return n.file.Close() }

// do runs f on a thread inside the namespace. do returns f's error. f must not start goroutines
// that count on the namespace: they run on other threads.
func (n *Namespace) do(f func() error) error {
	return sys.Namespaces{Network: n.file}.Do(f)
}
