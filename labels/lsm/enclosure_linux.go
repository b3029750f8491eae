// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Enclosure is a mount namespace that one command is alone in. The command finds its program and libraries there as on the host; once it
// has all open that it needs, Enter gives it another root, and what is reached through /proc/PID/root is that. It is used for one Launch.
type Enclosure struct {
	mu     sync.Mutex
	wake   int // an eventfd
	wishes chan wish
	gone   chan struct{} // closed when the command has ended
}

type wish struct {
	tree int
	done chan error
}

// NewEnclosure prepares an Enclosure. A Launch that has been started with it closes it when the command ends.
func NewEnclosure() (*Enclosure, error) {
	fd, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err != nil {
		return nil, fmt.Errorf("eventfd: %w", err)
	}
	return &Enclosure{wake: fd, wishes: make(chan wish, 1), gone: make(chan struct{})}, nil
}

// Enter makes tree, a detached mount of open_tree, the root of the running command. It stays the caller's, who may close it. A
// command that has ended is no error. EINVAL means that the host's root is an initial ram disk, which nothing can replace.
func (e *Enclosure) Enter(tree int) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	w := wish{tree: tree, done: make(chan error, 1)}
	select {
	case <-e.gone:
		return nil
	default:
	}
	e.wishes <- w
	if _, err := unix.Write(e.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		<-e.wishes
		return fmt.Errorf("eventfd: %w", err)
	}
	select {
	case <-e.gone:
		return nil
	case err := <-w.done:
		return err
	}
}

// unshare runs on the command's own thread before it is started.
func (e *Enclosure) unshare() error {
	err := unix.Unshare(unix.CLONE_NEWNS)
	if err == nil {
		err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
	}
	if err != nil {
		return fmt.Errorf("mount namespace: %w", err)
	}
	return nil
}

// serve fulfils the wish that there is, on the command's own thread.
func (e *Enclosure) serve() {
	var count [8]byte
	_, _ = unix.Read(e.wake, count[:]) // one wish at a time: the number says nothing
	select {
	case w := <-e.wishes:
		w.done <- replaceRoot(w.tree)
	default:
	}
}

// close is called on the command's own thread, or for one that was not started.
func (e *Enclosure) close() {
	close(e.gone)
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = unix.Close(e.wake) // nothing is buffered
}

// replaceRoot makes tree the root of everybody whose root is this thread's, which pivot_root does.
func replaceRoot(tree int) (err error) {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("old root: %w", err)
	}
	defer unix.Close(old)
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"mount", func() error {
			return unix.MoveMount(tree, "", old, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
		}},
		{"enter", func() error { return unix.Fchdir(tree) }},
		{"pivot_root", func() error { return unix.PivotRoot(".", ".") }},
		{"enter old root", func() error { return unix.Fchdir(old) }},
		{"unmount old root", func() error { return unix.Unmount(".", unix.MNT_DETACH) }},
		{"leave old root", func() error { return unix.Chdir("/") }},
	} {
		if err := step.do(); err != nil {
			return errors.Join(fmt.Errorf("replace root: %s: %w", step.name, err), unix.Chdir("/"))
		}
	}
	return nil
}
