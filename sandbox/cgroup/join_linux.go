// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"path"
	"strconv"

	"github.com/containerd/errdefs"
)

// Join moves a process into somebody else's group, in every hierarchy that has it; none is
// ErrNotFound. The shim joins the group that the engine has asked for (ShimCgroup) with it. That
// group must exist: an engine that names one has made it, and a group made here would have nobody
// who removes it.
func Join(group string, pid int) error {
	if err := checkLeaf(group); err != nil {
		return err
	}
	f := realFiles{}
	all, err := hierarchies(f, func(string) bool { return true })
	if err != nil {
		return err
	}
	return join(f, all, group, pid)
}

// join needs one hierarchy that has the group. An engine on a hybrid host makes its groups in some
// of them only.
func join(f files, all []hierarchy, group string, pid int) error {
	joined := false
	for _, h := range all {
		switch err := f.write(path.Join(h.mount, group, "cgroup.procs"), strconv.Itoa(pid)); {
		case err == nil:
			joined = true
		case !missing(err):
			return fmt.Errorf("cgroup %s: add process %d below %s: %w", group, pid, h.mount, err)
		}
	}
	if !joined {
		return fmt.Errorf("cgroup %s: in no hierarchy of this host: make it first: %w", group, errdefs.ErrNotFound)
	}
	return nil
}
