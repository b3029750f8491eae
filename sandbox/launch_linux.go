// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"
)

// launcher starts a command in the sandbox's network namespace.
type launcher struct{ netns *os.File }

// Start starts cmd on a thread of its own, which ends with it: neither its
// namespace nor its label reaches another command.
func (l launcher) Start(cmd *exec.Cmd) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(l.netns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- cmd.Start()
	}()
	return <-done
}
