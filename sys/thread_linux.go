// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// ErrGoexit is what OnThread returns for a function that ended its goroutine instead of returning.
var ErrGoexit = errors.New("the function ended its goroutine")

// OnThread runs f on an OS thread of its own and returns f's error. The thread ends with f, so what
// f does to it (labels, namespaces, capabilities, working directory) reaches nobody else. It is
// never the process's main thread, which cannot end and whose state /proc/PID shows for the whole
// process. Goroutines that f starts run on other threads.
func OnThread(f func() error) error {
	done := make(chan error, 1)
	go onThread(f, done)
	return <-done
}

// onThread is OnThread's goroutine. Its thread ends with it, because it is still locked then.
func onThread(f func() error, done chan<- error) {
	runtime.LockOSThread() // never unlocked: the runtime ends the thread with the goroutine
	// The goroutine got the main thread. It keeps it busy until another goroutine has another
	// thread.
	if unix.Gettid() == unix.Getpid() {
		locked := make(chan struct{})
		go func() { // cannot run on this thread while it is locked
			runtime.LockOSThread()
			close(locked)
			run(f, done)
		}()
		<-locked
		runtime.UnlockOSThread() // nothing was changed on it
		return
	}
	run(f, done)
}

// run sends f's error, or ErrGoexit when f has ended its goroutine, as a test's Fatal does.
func run(f func() error, done chan<- error) {
	err := ErrGoexit
	defer func() { done <- err }()
	err = f()
}

// Namespaces are the namespaces to enter; nil fields are left as they are. The files stay the
// caller's.
type Namespaces struct {
	User, Network, Mount *os.File
}

// Do runs f on a thread of its own that has entered the namespaces. See OnThread.
func (n Namespaces) Do(f func() error) error {
	return OnThread(func() error {
		if err := n.Enter(); err != nil {
			return err
		}
		return f()
	})
}

// Enter moves the calling thread, which must be one of OnThread's. A mount namespace changes the
// thread's root and working directory too. The user namespace comes first: the others may be its
// own, and then only who is in it may enter them. After an error the thread may be in some of them;
// it ends with its function.
func (n Namespaces) Enter() error {
	for _, ns := range []struct {
		name string
		file *os.File
		kind int
	}{{"user", n.User, unix.CLONE_NEWUSER}, {"network", n.Network, unix.CLONE_NEWNET}, {"mount", n.Mount, unix.CLONE_NEWNS}} {
		if ns.file == nil {
			continue
		}
		if ns.kind == unix.CLONE_NEWNS {
			if err := unix.Unshare(unix.CLONE_FS); err != nil { // setns refuses a thread that shares its root
				return fmt.Errorf("enter mount namespace: unshare root and working directory: %w", err)
			}
		}
		if err := unix.Setns(int(ns.file.Fd()), ns.kind); err != nil {
			return fmt.Errorf("enter %s namespace %s: %w", ns.name, ns.file.Name(), err)
		}
	}
	return nil
}
