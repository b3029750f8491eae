// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"os/exec"

	"cloister/labels/lsm"
	"cloister/sandbox/cgroup"
)

// launcher starts a helper of the sandbox: under its label, in its network
// namespace and cgroup, and with its mark.
type launcher struct {
	lsm.Launch
	mark   string
	cgroup *cgroup.Group
}

// Start starts cmd; on an error it does not run.
func (l launcher) Start(cmd *exec.Cmd) error {
	cmd.Env = append(cmd.Env, l.mark)
	if err := l.Launch.Start(cmd); err != nil {
		return err
	}
	if err := l.cgroup.Add(cmd.Process.Pid); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return nil
}
