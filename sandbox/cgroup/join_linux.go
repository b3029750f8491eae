// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
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

// Leave moves processes of the group into the groups of this process, in every hierarchy. Those
// that are not in it stay where they are. It is for processes that must outlive the group's.
func (g *Group) Leave(pids []int) error {
	f := realFiles{}
	all, err := hierarchies(f, func(string) bool { return true })
	if err != nil {
		return err
	}
	own, err := f.read("/proc/self/cgroup")
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		errs = append(errs, g.leave(f, all, own, pid))
	}
	return errors.Join(errs...)
}

// leave moves one process of the group; one that has ended is no error. The kernel moves by number:
// if the process is reaped, and its number given out, after it was found in the group, another one
// is moved.
func (g *Group) leave(f files, all []hierarchy, own string, pid int) error {
	fd, err := g.member(pid)
	if fd == nil {
		return err
	}
	defer fd.Close()
	for _, h := range all {
		group := h.group(own)
		if group == "" {
			continue
		}
		err := f.write(path.Join(h.mount, group, "cgroup.procs"), strconv.Itoa(pid))
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("cgroup %s: move process %d to %s below %s: %w", g.leaf, pid, group, h.mount, err)
		}
	}
	return nil
}

// group finds the hierarchy's line in the text of /proc/PID/cgroup (cgroups(7)); empty where there
// is none.
func (h hierarchy) group(text string) string {
	for line := range strings.SplitSeq(text, "\n") {
		fields := strings.SplitN(line, ":", 3) // a path may hold colons
		if len(fields) < 3 {
			continue
		}
		for c := range strings.SplitSeq(fields[1], ",") {
			if h.unified && fields[1] == "" || !h.unified && slices.Contains(h.controllers, c) {
				return fields[2]
			}
		}
	}
	return ""
}
