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

// Group is a sandbox's leaf in every hierarchy of the host.
type Group struct {
	leaf  string
	hosts []hierarchy
	files files
}

// At names the leaf (see Leaf) on this host. Nothing is made.
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

func checkLeaf(leaf string) error {
	if !path.IsAbs(leaf) || path.Clean(leaf) != leaf || leaf == "/" {
		return fmt.Errorf("cgroup %.200q: not a clean absolute path: %w", leaf, errdefs.ErrInvalidArgument)
	}
	return nil
}

// String is the leaf, from which At gives the Group again.
func (g *Group) String() string { return g.leaf }

// Create makes the leaf and sets its limits. A leaf that exists is taken over:
// its name is the sandbox's own. On an error what was made is removed.
func (g *Group) Create(l Limits) error {
	for _, h := range g.hosts {
		if err := g.make(h); err != nil {
			return errors.Join(fmt.Errorf("cgroup %s: %w", g.leaf, err), g.rmdirAll())
		}
	}
	if err := g.Set(l); err != nil {
		return errors.Join(err, g.rmdirAll())
	}
	if l.Devices == nil {
		return nil
	}
	if err := g.setDevices(l.Devices); err != nil {
		return errors.Join(err, g.rmdirAll())
	}
	return nil
}

// make makes the leaf and its parents in one hierarchy.
func (g *Group) make(h hierarchy) error {
	at := h.mount
	for part := range strings.SplitSeq(strings.Trim(g.leaf, "/"), "/") {
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
	for _, c := range []string{"cpu", "cpuset", "io", "memory", "pids"} {
		if !slices.Contains(h.controllers, c) || slices.Contains(strings.Fields(on), c) {
			continue
		}
		err := g.files.write(at+"/cgroup.subtree_control", "+"+c)
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) {
			return fmt.Errorf("switch %s on in %s: %w", c, at, err)
		}
	}
	return nil
}

// inheritCpuset fills a new v1 cpuset, which takes no process while it is empty.
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

// Set changes limits; a zero field stays as it is. A limit that the kernel has no
// file for is errdefs.ErrNotImplemented.
func (g *Group) Set(l Limits) error {
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

func (g *Group) put(h hierarchy, s setting) error {
	file := path.Join(h.mount, g.leaf, s.file)
	err := g.files.write(file, s.value)
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

// setMemoryV1 keeps memory at or below memory with swap at every moment.
func (g *Group) setMemoryV1(h hierarchy, l Limits) error {
	memory, both, ok := l.memoryV1()
	if !ok {
		return nil
	}
	limit := setting{controller: "memory", file: "memory.limit_in_bytes", value: itoa(memory)}
	swap := setting{controller: "memory", file: "memory.memsw.limit_in_bytes", value: itoa(both), optional: true}
	order := []setting{limit, swap}
	if now, err := g.files.read(path.Join(h.mount, g.leaf, swap.file)); err == nil {
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

// Add moves a process with all its threads into the leaf.
func (g *Group) Add(pid int) error {
	for _, h := range g.hosts {
		if err := g.files.write(path.Join(h.mount, g.leaf, "cgroup.procs"), strconv.Itoa(pid)); err != nil {
			return fmt.Errorf("cgroup %s: add process %d below %s: %w", g.leaf, pid, h.mount, err)
		}
	}
	return nil
}

// Pids lists the processes in the leaf; none when it does not exist.
func (g *Group) Pids() ([]int, error) {
	var out []int
	for _, h := range g.hosts {
		text, err := g.files.read(path.Join(h.mount, g.leaf, "cgroup.procs"))
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

// Kill kills every process in the leaf, which must hold nobody else's. It does
// not wait: Remove does.
func (g *Group) Kill() error {
	for _, h := range g.hosts {
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

// kill kills a process that is still in the leaf when its descriptor is open: a
// pid alone may have been given out again.
func (g *Group) kill(pid int) error {
	fd, err := sys.OpenPID(pid)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer fd.Close()
	if pids, err := g.Pids(); err != nil || !slices.Contains(pids, pid) {
		return err
	}
	if err := fd.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	return nil
}

// OOMKills counts the processes of the leaf that the kernel has killed because the leaf was out of
// memory.
func (g *Group) OOMKills() (int, error) {
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

// retry is how often a leaf is looked at whose processes have not gone yet:
// cgroup v1 tells nobody when they have.
const retry = 5 * time.Millisecond

// Remove removes the leaf once its processes are gone, and waits for that until
// ctx ends. One that does not exist is no error. It kills nothing.
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
