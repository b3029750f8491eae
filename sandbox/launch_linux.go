// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"

	"golang.org/x/sys/unix"

	"cloister/sandbox/cgroup"
)

// launcher starts a command in the sandbox's network namespace and cgroup.
type launcher struct {
	netns  *os.File
	mark   string
	cgroup *cgroup.Group
}

// Start starts cmd on a thread of its own, which ends with it: neither its
// namespace nor its label reaches another command.
func (l launcher) Start(cmd *exec.Cmd) error {
	cmd.Env = append(cmd.Env, l.mark)
	done := make(chan error)
	go func() {
		runtime.LockOSThread()
		if err := unix.Setns(int(l.netns.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter network namespace: %w", err)
			return
		}
		done <- cmd.Start()
	}()
	if err := <-done; err != nil || l.cgroup == nil {
		return err
	}
	if err := l.cgroup.Add(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return nil
}
