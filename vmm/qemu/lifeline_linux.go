// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// lifeline makes the kernel kill a process when the one that started it is gone.
//
// It is a socketpair of which each of the two holds one end and over which nothing
// is ever sent; the child's end is set to raise SIGKILL at the child when it
// hangs up. Unlike Pdeathsig this does not depend on the thread that forked and
// is not undone by the exec that changes an SELinux label
// (selinux_bprm_committing_creds clears pdeath_signal). A child that has been
// taken over can disarm it, as it could Pdeathsig: this is for crashes.
type lifeline struct{ host, child *os.File }

// arm ties the process to the line and gives up this side's hold on its end.
func (l lifeline) arm(pid int) error {
	defer func() { _ = l.child.Close() }()
	raw, err := l.child.SyscallConn()
	if err != nil {
		return err
	}
	var armErr error
	err = raw.Control(func(fd uintptr) {
		for _, set := range []struct{ cmd, arg int }{
			{unix.F_SETSIG, int(unix.SIGKILL)},
			{unix.F_SETOWN, pid},
			{unix.F_SETFL, unix.O_RDWR | unix.O_ASYNC},
		} {
			if _, armErr = unix.FcntlInt(fd, set.cmd, set.arg); armErr != nil {
				return
			}
		}
	})
	if err == nil {
		err = armErr
	}
	if err != nil {
		return fmt.Errorf("tie pid %d to this process: %w", pid, err)
	}
	return nil
}
