// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"cloister/labels/lsm"
	"cloister/sandbox/cgroup"
)

// launcher starts a helper of the sandbox: under its label, in its network
// namespace and cgroup, and with its mark.
type launcher struct {
	lsm.Launch
	mark     string
	cgroup   *cgroup.Group
	oomScore int
}

// Start starts cmd; on an error it does not run.
func (l launcher) Start(cmd *exec.Cmd) error {
	cmd.Env = append(cmd.Env, l.mark)
	if err := l.Launch.Start(cmd); err != nil {
		return err
	}
	if err := errors.Join(l.cgroup.Add(cmd.Process.Pid), raiseOOMScore(cmd.Process.Pid, l.oomScore)); err != nil {
		return errors.Join(err, cmd.Process.Kill(), cmd.Wait())
	}
	return nil
}

// raiseOOMScore sets how readily the kernel kills a helper when memory is short. It is inherited from the engine, which is protected; a machine
// must not be. Lower than inherited it never becomes.
func raiseOOMScore(pid, score int) error {
	name := fmt.Sprintf("/proc/%d/oom_score_adj", pid)
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	now, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil || now >= score {
		return err
	}
	return os.WriteFile(name, []byte(strconv.Itoa(score)), 0)
}
