// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sys"
)

// Group is a sandbox's leaf in every hierarchy of the host. A Group holds no descriptor and no
// lock: it is a name, and each call goes to the kernel. Two Groups of one leaf, also in two
// processes, mean the same.
type Group struct {
	leaf  string
	hosts []hierarchy
	files files
}

// At names the leaf (see Leaf) on this host. Nothing is made. A leaf that is not a clean absolute
// path is errdefs.ErrInvalidArgument.
func At(leaf string) (*Group, error) {
	return at(leaf, realFiles{})
}

func at(leaf string, f files) (*Group, error) {
	if err := checkLeaf(leaf); err != nil {
		return nil, err
	}
	hosts, err := hierarchies(f, used)
	if err != nil {
		return nil, err
	}
	return &Group{leaf: leaf, hosts: hosts, files: f}, nil
}

// checkLeaf guards what Kill kills: a path of a damaged record must not name the root of a
// hierarchy, which has all processes of the host, or another group by "..".
func checkLeaf(leaf string) error {
	if !path.IsAbs(leaf) || path.Clean(leaf) != leaf || leaf == "/" {
		return fmt.Errorf("cgroup %.200q: not a clean absolute path: %w", leaf, errdefs.ErrInvalidArgument)
	}
	return nil
}

// String is the leaf, from which At gives the Group again.
func (g *Group) String() string { return g.leaf }

// Create makes the leaf and sets its limits. A leaf that exists is taken over: its name is the
// sandbox's own. On an error what was made is removed. A leaf that a dead shim left may have other
// limits than l: every limit of l is written again. Create is called with the leaf in the record
// and before Add, so that no process ever runs in it without its limits.
func (g *Group) Create(l Limits) error {
	for _, h := range g.hosts {
		if err := g.make(h); err != nil {
			return errors.Join(fmt.Errorf("cgroup %s: %w", g.leaf, err), g.rmdirAll())
		}
	}
	if err := g.Set(l); err != nil {
		return errors.Join(err, g.rmdirAll())
	}
	// Set does not touch the devices. On v2 a program would be attached beside the one that is
	// there, and the kernel asks all of them.
	if l.Devices == nil {
		return nil
	}
	if err := g.setDevices(l.Devices); err != nil {
		return errors.Join(err, g.rmdirAll())
	}
	return nil
}

// make makes the leaf and its parents in one hierarchy. Parents stay when the leaf is removed: an
// engine or systemd may have made them, or use them for others.
func (g *Group) make(h hierarchy) error {
	at := h.mount
	for part := range strings.SplitSeq(strings.Trim(g.leaf, "/"), "/") {
		// A v2 group has the files of a controller only if its parent has the controller in its
		// subtree_control. So every level above the leaf is asked, from the root down.
		if h.unified {
			if err := g.delegate(h, at); err != nil {
				return err
			}
		}
		parent := at
		at = path.Join(at, part)
		if err := g.files.mkdir(at); err != nil {
			return err
		}
		if slices.Contains(h.controllers, "cpuset") && !h.unified {
			if err := g.inheritCpuset(parent, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// delegate switches a v2 cgroup's controllers on for its children. One that
// cannot be (the cgroup has processes of its own) shows up when a limit needs it.
func (g *Group) delegate(h hierarchy, at string) error {
	on, err := g.files.read(at + "/cgroup.subtree_control")
	if err != nil {
		return err
	}
	// One write for each controller: the kernel takes a line with several of them as a whole or not
	// at all. One that cannot be had would cost the others.
	for _, c := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
		if !slices.Contains(h.controllers, c) || slices.Contains(strings.Fields(on), c) {
			continue
		}
		// EBUSY: the group has processes of its own, which v2 allows only in leaves. ENOENT: the
		// controller is not offered here. EOPNOTSUPP: the group is threaded. EACCES: SELinux does
		// not let this process change the scheduling of one in a group beside the leaf, such as
		// conmon, which cpuset would do.
		err := g.files.write(at+"/cgroup.subtree_control", "+"+c)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) &&
			!errors.Is(err, unix.EACCES) {
			return fmt.Errorf("switch %s on in %s: %w", c, at, err)
		}
	}
	return nil
}

// inheritCpuset fills a new v1 cpuset, which takes no process while it is empty. A write to
// cgroup.procs of such a group gives ENOSPC. What somebody has set meanwhile is left alone.
func (g *Group) inheritCpuset(parent, child string) error {
	for _, f := range []string{"/cpuset.cpus", "/cpuset.mems"} {
		have, err := g.files.read(child + f)
		if err != nil {
			return err
		}
		if have != "" {
			continue
		}
		want, err := g.files.read(parent + f)
		if err != nil {
			return err
		}
		if err := g.files.write(child+f, want); err != nil {
			return err
		}
	}
	return nil
}

// Set changes limits; a zero field stays as it is. A limit that the kernel has no file for is
// errdefs.ErrNotImplemented. Set is no transaction: after an error some limits are the new ones.
// The kernel may refuse a limit of memory below what is in use (EBUSY on v1).
func (g *Group) Set(l Limits) error {
	// On a hybrid host a controller is v1's or v2's, never both. Each setting is offered in both
	// spellings, and written where its controller is.
	for _, s := range l.v2() {
		if h, ok := g.unified(s.controller); ok {
			if err := g.put(h, s); err != nil {
				return err
			}
		}
	}
	for _, s := range l.v1() {
		if h, ok := g.v1(s.controller); ok {
			if err := g.put(h, s); err != nil {
				return err
			}
		}
	}
	// The two limits of memory on v1 depend on each other, so they are not in the list of single
	// writes.
	if h, ok := g.v1("memory"); ok {
		return g.setMemoryV1(h, l)
	}
	return nil
}

// v1 finds the hierarchy of a controller that is not cgroup v2's.
func (g *Group) v1(controller string) (hierarchy, bool) {
	for _, h := range g.hosts {
		if !h.unified && slices.Contains(h.controllers, controller) {
			return h, true
		}
	}
	return hierarchy{}, false
}

// unified finds cgroup v2's when the controller is its own: also when nobody has
// it, so that the missing file is reported.
func (g *Group) unified(controller string) (hierarchy, bool) {
	name := controller
	// v1 calls the same controller by another name.
	if controller == "io" {
		name = "blkio"
	}
	if _, ok := g.v1(name); ok {
		return hierarchy{}, false
	}
	for _, h := range g.hosts {
		if h.unified {
			return h, true
		}
	}
	return hierarchy{}, false
}

// put writes one setting. A missing file is an error unless the setting is optional: a limit that
// an engine has asked for and that nothing holds must not pass for set.
func (g *Group) put(h hierarchy, s setting) error {
	file := path.Join(h.mount, g.leaf, s.file)
	err := g.files.write(file, s.value)
	// The bfq scheduler brings files of its own; which of the two exists depends on the kernel's
	// configuration.
	if missing(err) && s.either != "" {
		err = g.files.write(path.Join(h.mount, g.leaf, s.either), s.value)
	}
	switch {
	case missing(err) && s.optional:
		return nil
	case missing(err):
		return fmt.Errorf("cgroup %s: the kernel has no %s here, or its parent does not pass it on: %w",
			g.leaf, s.file, errdefs.ErrNotImplemented)
	case err != nil:
		return fmt.Errorf("cgroup %s: set %s to %q: %w", g.leaf, s.file, s.value, err)
	}
	return nil
}

// missing: the file is of a kernel or controller that this group does not have.
func missing(err error) bool {
	return errors.Is(err, fs.ErrNotExist)
}

// setMemoryV1 keeps memory at or below memory with swap at every moment. The kernel refuses a write
// after which memory would be above memory with swap (EINVAL). Who raises both has to raise the
// second one first, who lowers them the first one.
func (g *Group) setMemoryV1(h hierarchy, l Limits) error {
	memory, both, ok := l.memoryV1()
	if !ok {
		return nil
	}
	limit := setting{controller: "memory", file: "memory.limit_in_bytes", value: itoa(memory)}
	swap := setting{controller: "memory", file: "memory.memsw.limit_in_bytes", value: itoa(both), optional: true}
	order := []setting{limit, swap}
	if now, err := g.files.read(path.Join(h.mount, g.leaf, swap.file)); err == nil {
		// -1 is "no limit" and above every number. A host that does not count swap has no such
		// file, and the order does not matter.
		if n, err := strconv.ParseInt(now, 10, 64); err == nil && (both < 0 || both > n) {
			order = []setting{swap, limit}
		}
	}
	for _, s := range order {
		if err := g.put(h, s); err != nil {
			return err
		}
	}
	return nil
}

// Add moves a process with all its threads into the leaf. The caller makes sure that pid is still
// its process: a pid says nothing about which one. A helper is added as soon as it runs: memory
// that it has touched before stays charged to the shim's group.
func (g *Group) Add(pid int) error {
	for _, h := range g.hosts {
		if err := g.files.write(path.Join(h.mount, g.leaf, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("cgroup %s: add process %d below %s: %w", g.leaf, pid, h.mount, err)
		}
	}
	return nil
}

// Holds tells whether a process is in the leaf, in every hierarchy of the host: a limit is where
// its controller is. A leaf that does not exist is an error.
func (g *Group) Holds(pid int) (bool, error) {
	for _, h := range g.hosts {
		text, err := g.files.read(path.Join(h.mount, g.leaf, "cgroup.procs"))
		if err != nil {
			return false, fmt.Errorf("cgroup %s: %w", g.leaf, err)
		}
		if !slices.Contains(strings.Fields(text), strconv.Itoa(pid)) {
			return false, nil
		}
	}
	return true, nil
}

// Pids lists the processes in the leaf; none when it does not exist. The list may be old when it is
// returned. Pids of processes in other pid namespaces than the caller's read as 0 and are left out.
func (g *Group) Pids() ([]int, error) {
	var out []int
	for _, h := range g.hosts {
		text, err := g.files.read(path.Join(h.mount, g.leaf, "cgroup.procs"))
		// ENODEV: the group was removed between open and read.
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for field := range strings.FieldsSeq(text) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				out = append(out, pid)
			}
		}
	}
	slices.Sort(out)
	return slices.Compact(out), nil
}

// Kill kills every process in the leaf, which must hold nobody else's. It does not wait: Remove
// does. A process that forks faster than it is killed is bounded by cgroup.kill on v2, which kills
// the children too, and by pids.max on v1. Kill may be repeated, and an absent leaf is no error.
func (g *Group) Kill() error {
	for _, h := range g.hosts {
		// Kernels before 5.14 have no cgroup.kill. The processes are then killed one by one, as
		// they are after it on hybrid hosts.
		if h.unified && g.files.write(path.Join(h.mount, g.leaf, "cgroup.kill"), "1") == nil {
			break // not on hybrid hosts alone: a process may be in v1 leaves only
		}
	}
	pids, err := g.Pids()
	if err != nil {
		return err
	}
	var errs []error
	for _, pid := range pids {
		errs = append(errs, g.kill(pid))
	}
	return errors.Join(errs...)
}

// member opens a process of the leaf; nil if it has ended or is not in it. A pid alone may have
// been given out again. The order is descriptor first, list second: a pid that is in the list while
// the descriptor is open is the descriptor's process.
func (g *Group) member(pid int) (*sys.PIDFD, error) {
	fd, err := sys.OpenPID(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if pids, err := g.Pids(); err != nil || !slices.Contains(pids, pid) {
		return nil, errors.Join(err, fd.Close())
	}
	return fd, nil
}

// kill kills a process of the leaf.
func (g *Group) kill(pid int) error {
	fd, err := g.member(pid)
	if fd == nil {
		return err
	}
	defer fd.Close()
	if err := fd.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// OOMKills counts the processes of the leaf that the kernel has killed because the leaf was out of
// memory. Zero where the host does not count memory. The count tells a machine that the host has
// killed from a workload that its guest has killed: the two are reported with different reasons.
func (g *Group) OOMKills() (int, error) {
	// memory.events counts the group and all below it; the leaf has no groups below it, so the two
	// kernels' files mean the same.
	file := "memory.events"
	h, ok := g.unified("memory")
	if !ok {
		file = "memory.oom_control"
		if h, ok = g.v1("memory"); !ok {
			return 0, nil
		}
	}
	text, err := g.files.read(path.Join(h.mount, g.leaf, file))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(text) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return strconv.Atoi(n)
		}
	}
	return 0, nil
}

// retry is how often a leaf is looked at whose processes have not gone yet: cgroup v1 tells nobody
// when they have. A process that was killed leaves its group when its memory is given back, which
// for a large guest takes a while.
const retry = 5 * time.Millisecond

// Remove removes the leaf once its processes are gone, and waits for that until ctx ends. One that
// does not exist is no error. It kills nothing. The caller has called Kill. rmdir gives EBUSY while
// the group has processes, zombies not counted. An error names the pids that are left, for the
// operator: such a process hangs in the kernel, as a rule.
func (g *Group) Remove(ctx context.Context) error {
	tick := time.NewTicker(retry)
	defer tick.Stop()
	for {
		err := g.rmdirAll()
		if !errors.Is(err, unix.EBUSY) {
			return err
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			pids, _ := g.Pids()
			return fmt.Errorf("%w: processes %v are still in it: %w", err, pids, ctx.Err())
		}
	}
}

// rmdirAll removes the leaf from every hierarchy, and goes on after an error: one hierarchy whose
// leaf is busy must not keep the others from being cleaned up.
func (g *Group) rmdirAll() error {
	var errs []error
	for _, h := range g.hosts {
		err := g.files.rmdir(path.Join(h.mount, g.leaf))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("remove cgroup %s below %s: %w", g.leaf, h.mount, err))
		}
	}
	return errors.Join(errs...)
}
