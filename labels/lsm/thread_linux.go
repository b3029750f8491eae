// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"errors"
	"fmt"
	"runtime"

	"cloister/labels"

	"golang.org/x/sys/unix"
)

// SetExec sets label for the next exec of the calling thread, and of what it forks. The caller has
// locked the thread, never unlocks it, starts one process and calls clear. With the driver "none"
// the label must be zero and nothing is set.
//
// There is no label for the child's sockets here: the kernel forgets attr/sockcreate at exec.
// Sockets that a child inherits are made by Sockets.
//
// The label belongs to the OS thread. On a thread that goes back to the scheduler, another
// goroutine would start its program under a guest's label, or this one's program would start
// without.
func (d *Driver) SetExec(label labels.Label) (unset func(), err error) {
	if err := d.ready(label); err != nil {
		return nil, err
	}
	if label.IsZero() {
		return func() {}, nil
	}
	if err := d.host.thread().SetExec(label.String()); err != nil {
		return nil, fmt.Errorf("set exec label %v: %w", label, err)
	}
	// The thread starts nothing more and ends locked: a failure to clear harms nobody.
	return func() { _ = d.host.thread().SetExec("") }, nil
}

// Exec replaces the calling process by a program under label: for a helper that restricts itself
// first. It returns only on failure, with the label taken back. The zero label replaces without
// one. If the label cannot be taken back, the thread stays locked, so that nothing else is started
// from it.
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
