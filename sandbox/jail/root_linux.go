// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"sync"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// Root is a mount namespace for one process. The process finds its program and libraries there as
// on the host, with a Tree nothing else of the host. Once it has everything open that it needs,
// Replace or Pivot gives it another root directory, which is also what others see below
// /proc/PID/root. The nil Root is the host's namespace. Its methods may be called at once; changes
// happen one after the other, on its own thread.
type Root struct {
	ns     *os.File
	top    *os.File // its root directory, which a chroot of this process makes another than the namespace's
	left   bool     // whether that is no longer the host's
	wishes chan wish
	ended  chan struct{} // closed with the Root
	once   sync.Once
}

// wish is what the Root's thread is to do.
type wish struct {
	do   func() error
	done chan error
}

// NewRoot makes the namespace. With follow, what is mounted later on shared mounts of the caller's
// namespace appears in it too. A Jail that is started with it closes it when its process ends;
// without one the caller calls Close. It needs CAP_SYS_ADMIN. Nothing that is mounted in it appears
// outside.
func NewRoot(follow bool) (*Root, error) {
	r := &Root{wishes: make(chan wish), ended: make(chan struct{})}
	propagation := uintptr(unix.MS_PRIVATE)
	if follow {
		propagation = unix.MS_SLAVE
	}
	ready := make(chan error, 1)
	go func() {
		err := sys.OnThread(func() error { return r.serve(propagation, ready) })
		if err != nil {
			ready <- err
		}
	}()
	if err := <-ready; err != nil {
		return nil, err
	}
	return r, nil
}

// unshareMounts gives the calling thread a mount namespace of its own.
func unshareMounts(propagation uintptr) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil { // implies CLONE_FS
		if errors.Is(err, unix.ENOSPC) {
			err = fmt.Errorf("%w: the host's sysctl user.max_mnt_namespaces must allow it", err)
		}
		return fmt.Errorf("mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|propagation, ""); err != nil {
		return fmt.Errorf("mount namespace: propagation of its mounts: %w", err)
	}
	return nil
}

// serve runs on a thread of its own, which is in the namespace as long as the Root is open. The
// kernel lets a thread of several enter a mount namespace only with an fs (working and root
// directory) of its own. So one thread stays there for all changes.
func (r *Root) serve(propagation uintptr, ready chan<- error) (err error) {
	if err := unshareMounts(propagation); err != nil {
		return err
	}
	// The shim may itself run in a chroot. setns would lead its helpers to the namespace's root,
	// which is another one.
	if r.top, err = os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return err
	}
	if r.ns, err = os.Open("/proc/thread-self/ns/mnt"); err != nil {
		return errors.Join(err, r.top.Close())
	}
	ready <- nil
	for {
		select {
		case w := <-r.wishes:
			w.done <- w.do()
		case <-r.ended:
			_, _ = r.ns.Close(), r.top.Close() // nothing is buffered
			return nil
		}
	}
}

// Do runs f on a thread that is in the namespace: it can change mounts there. It does nothing when
// the process has ended. f must not wait for another Do, which would wait for the same thread.
func (r *Root) Do(f func() error) error {
	w := wish{do: f, done: make(chan error, 1)}
	select {
	case r.wishes <- w:
		return <-w.done
	case <-r.ended:
		return nil
	}
}

// Folder opens a folder with O_PATH inside the namespace: it belongs to the namespace's mount, not
// to the caller's. The caller closes it. A process that has ended is os.ErrProcessDone. No link is
// followed.
func (r *Root) Folder(path string) (f *os.File, err error) {
	err = r.Do(func() (err error) {
		f, err = sys.OpenNoLinks(path, unix.O_PATH|unix.O_DIRECTORY)
		return err
	})
	if err == nil && f == nil {
		err = os.ErrProcessDone
	}
	return f, err
}

// Replace makes tree, a detached mount of open_tree, the root of the running process. It stays the
// caller's, who may close it. A process that has ended is no error. EINVAL means that the host's
// root is an initial ram disk, which nothing can replace. It may be called again: the tree before
// is unmounted.
func (r *Root) Replace(tree int) error {
	return r.Do(func() error {
		if err := replaceRoot(tree); err != nil {
			return err
		}
		return r.arrive()
	})
}

// Pivot makes a mount of the namespace its root, and takes everything away that is not below it.
// Its top was opened by Folder. See Replace for errors. It is for a file server, whose volumes are
// mounted below that top and must stay. Descriptors that the process has open outside of it stay
// open, but nothing is mounted there any more in this namespace.
func (r *Root) Pivot(top *os.File) error {
	return r.Do(func() (err error) {
		defer runtime.KeepAlive(top)
		old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return fmt.Errorf("old root: %w", err)
		}
		defer unix.Close(old)
		if err := pivot(int(top.Fd()), old); err != nil {
			return err
		}
		return r.arrive()
	})
}

// arrive notes the root directory that the Root's thread has got.
func (r *Root) arrive() error {
	top, err := os.OpenFile("/", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	_ = r.top.Close() // O_PATH
	r.top, r.left = top, true
	return nil
}

// verify reads back that every thread of a process has the root directory that was made last. The
// host's, which the namespace begins with, is none.
func (r *Root) verify(pid int) error {
	top := -1
	err := r.Do(func() (err error) {
		if !r.left {
			return fmt.Errorf("%w: its root directory is the host's", ErrEscaped)
		}
		top, err = unix.FcntlInt(r.top.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		return err
	})
	if err == nil && top < 0 {
		err = os.ErrProcessDone
	}
	if err != nil {
		return fmt.Errorf("verify the jail of pid %d: %w", pid, err)
	}
	f := os.NewFile(uintptr(top), "/")
	defer f.Close() // O_PATH
	return VerifyRoot(pid, f)
}

// Close gives the namespace up, which lives on as long as a process is in it. It may be repeated.
// The thread that was in it ends.
func (r *Root) Close() error {
	if r == nil {
		return nil
	}
	r.once.Do(func() { close(r.ended) })
	return nil
}

// enter moves the calling thread, which must be one of sys.OnThread's. The root directory is that
// of whoever made the Root, by its descriptor: a path would be resolved in the namespace's own
// root.
func (r *Root) enter() error {
	if r == nil {
		return nil
	}
	if err := (sys.Namespaces{Mount: r.ns}).Enter(); err != nil {
		return err
	}
	if err := unix.Fchdir(int(r.top.Fd())); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter mount namespace: %w", err)
	}
	return nil
}

// replaceRoot makes tree the root of everybody whose root is this thread's. The tree is mounted
// over the old root first, since pivot_root wants a mount point.
func replaceRoot(tree int) (err error) {
	old, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("old root: %w", err)
	}
	defer unix.Close(old)
	if err := unix.MoveMount(tree, "", old, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("replace root: mount: %w", err)
	}
	return pivot(tree, old)
}

// pivot makes a mount of this thread's namespace the root of everybody whose root is old, this
// thread's, and unmounts old. pivot_root(".", ".") stacks the old root over the new one
// (pivot_root(2)), so that no folder for it is needed in a tree that is read-only. The kernel moves
// every process whose root was the old one.
func pivot(top, old int) error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"enter", func() error { return unix.Fchdir(top) }},
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
