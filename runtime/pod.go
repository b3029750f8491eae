// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	metrics "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"

	"cloister/oci"
	"cloister/runtime/stdio"
)

// Pod is a pod in an engine's words, for one that comes without a container.
type Pod = oci.Pod

// PodSize is what an engine says of a pod's size.
type PodSize = oci.PodSize

// IDMap is what an engine says of a pod's user namespace.
type IDMap = oci.IDMap

// IDRange is a part of an IDMap.
type IDRange = oci.IDRange

// PodRequest asks for a sandbox that containers will join. It comes by containerd's Sandbox API,
// where a pod has no pause container.
type PodRequest struct {
	Pod    Pod
	Bundle string            // absolute folder of the pod
	Files  map[string][]byte // of /etc in each container that brings none itself: hosts, hostname, resolv.conf
}

// CreatePod checks a pod and keeps it for StartPod. Nothing runs yet. A runtime has one sandbox, so
// a pod beside another one, or beside containers, is ErrFailedPrecondition.
func (r *Runtime) CreatePod(req PodRequest) error {
	if err := r.reserve(req.Pod.ID); err != nil {
		return err
	}
	if other := r.another(req.Pod.ID); other != "" {
		r.forget(req.Pod.ID)
		return fmt.Errorf("sandbox %s: this shim already serves %s: start a shim of its own for it: %w",
			req.Pod.ID, other, errdefs.ErrFailedPrecondition)
	}
	c, err := r.newPod(req)
	if err != nil {
		r.forget(req.Pod.ID)
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.containers[c.id] = c
	return nil
}

// another is the id of something that is not id; empty for none.
func (r *Runtime) another(id string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	for other := range r.containers {
		if other != id {
			return other
		}
	}
	return ""
}

// newPod checks the pod and writes its files. They are on the host, below the bundle, and are
// copied into the guest with each container.
func (r *Runtime) newPod(req PodRequest) (*container, error) {
	config, err := r.configFor(CreateRequest{ID: req.Pod.ID, Bundle: req.Bundle})
	if err != nil {
		return nil, err
	}
	if config.Class == oci.ClassProcess {
		return nil,
			fmt.Errorf("sandbox %s: class = %q: a pod without a container is a machine: "+
				"set sandboxer = \"podsandbox\" for the runtime handler, or class = %q: %w",
				req.Pod.ID, config.Class, oci.ClassVM, errdefs.ErrInvalidArgument)
	}
	workload, err := oci.NewPod(req.Pod, config.Workloads)
	if err != nil {
		return nil, err
	}
	for name, data := range req.Files {
		if err := os.WriteFile(podFile(req.Bundle, name), data, 0o600); err != nil {
			return nil, err
		}
	}
	c := &container{id: req.Pod.ID, bundle: req.Bundle, workload: workload, pause: true, pod: true, execs: map[string]*process{}}
	// The engine waits for the sandbox; an event about it would be one about a container it does
	// not have.
	c.init = newProcess(Ref{Container: c.id}, stdio.Config{ContainerID: c.id, Namespace: r.namespace}, func(Ref, Exited) {})
	return c, nil
}

// podFile is a file of /etc that a pod's containers get, in the pod's bundle. The prefix keeps it
// apart from the engine's own files there.
func podFile(bundle, name string) string { return filepath.Join(bundle, "pod-"+name) }

// StartPod starts the pod's machine and returns its pid. A pod that was not created, or was started
// before, is ErrFailedPrecondition. When it fails, the pod stays created and ClosePod ends it.
func (r *Runtime) StartPod(ctx context.Context, id string) (uint32, error) {
	c, err := r.pod(id)
	if errdefs.IsNotFound(err) {
		return 0, fmt.Errorf("start sandbox %s, which was not created: %w", id, errdefs.ErrFailedPrecondition)
	}
	if err != nil {
		return 0, err
	}
	err = c.init.start(func() error {
		config, err := r.configFor(CreateRequest{ID: id, Bundle: c.bundle})
		if err != nil {
			return err
		}
		m, _, err := r.enter(ctx, c, config, nil)
		if err == nil {
			c.machine.Store(m)
		}
		return err
	}, func() {})
	if err != nil {
		return 0, err
	}
	m := c.machine.Load()
	select {
	case <-m.ended: // before watch could know of the pod
		c.died()
	default:
	}
	return uint32(m.Pid), nil
}

// StopPod ends the pod's machine and whatever still runs in it. A pod that has stopped already is
// no error. Its own exit is noted first, so that the end of the machine does not count as a death.
func (r *Runtime) StopPod(ctx context.Context, id string) error {
	c, err := r.pod(id)
	if err != nil {
		return err
	}
	c.init.exited(Exited{Status: 0, At: time.Now()})
	return r.Close(ctx)
}

// ClosePod is StopPod, and forgets the pod. It may be repeated, and is called for a pod that never
// started too.
func (r *Runtime) ClosePod(ctx context.Context, id string) error {
	if err := r.StopPod(ctx, id); err != nil && !errdefs.IsNotFound(err) {
		return err
	}
	r.forget(id)
	return nil
}

// pod finds a pod that was made by CreatePod; a pause container is none.
func (r *Runtime) pod(id string) (*container, error) {
	c, err := r.container(id)
	if err != nil {
		return nil, err
	}
	if !c.pod {
		return nil, fmt.Errorf("%s is a container and no pod: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// PodInfo is what people ask of a pod: its machine's facts and its containers. It is for
// SandboxStatus with verbose.
func (r *Runtime) PodInfo(id string) (map[string]string, error) {
	c, err := r.pod(id)
	if err != nil {
		return nil, err
	}
	info := map[string]string{"bundle": c.bundle, "class": "vm"}
	if m := c.machine.Load(); m != nil {
		maps.Copy(info, m.Facts)
		info["pid"] = strconv.Itoa(m.Pid)
	}
	var members []string
	for _, member := range r.all() {
		if member != c {
			state, _ := member.init.snapshot()
			members = append(members, member.id+" "+state.String())
		}
	}
	slices.Sort(members)
	info["containers"] = strings.Join(members, ", ")
	return info, nil
}

// PodStats is the sum of what the pod's containers use, as the guest measures them. Memory is in
// bytes, times in microseconds. What the machine itself needs is not in it.
func (r *Runtime) PodStats(ctx context.Context, id string) (*metrics.Metrics, error) {
	if _, err := r.pod(id); err != nil {
		return nil, err
	}
	sum := &metrics.Metrics{CPU: &metrics.CPUStat{}, Memory: &metrics.MemoryStat{}, Pids: &metrics.PidsStat{}}
	for _, c := range r.all() {
		if c.pause {
			continue
		}
		m, err := r.Stats(ctx, c.id)
		if errdefs.IsNotFound(err) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		sum.CPU.UsageUsec += m.GetCPU().GetUsageUsec()
		sum.CPU.UserUsec += m.GetCPU().GetUserUsec()
		sum.CPU.SystemUsec += m.GetCPU().GetSystemUsec()
		sum.Memory.Usage += m.GetMemory().GetUsage()
		sum.Memory.Anon += m.GetMemory().GetAnon()
		sum.Memory.InactiveFile += m.GetMemory().GetInactiveFile()
		sum.Memory.Pgfault += m.GetMemory().GetPgfault()
		sum.Memory.Pgmajfault += m.GetMemory().GetPgmajfault()
		sum.Pids.Current += m.GetPids().GetCurrent()
	}
	return sum, nil
}

// equip gives a pod's container what the engine left to the runtime: the files of /etc, and the
// pod's shared memory instead of one of its own. A container that brings one of these files keeps
// it, and so does one that has a volume at /dev/shm.
func (r *Runtime) equip(w *oci.Workload, bundle string) {
	r.mu.Lock()
	c := r.containers[w.SandboxID]
	r.mu.Unlock()
	if w.Role != oci.Member || c == nil {
		return
	}
	w.ClaimMemory(c.workload.OwnMemory(c.bundle), bundle)
	if !c.pod {
		return
	}
	there := map[string]bool{}
	for i, m := range w.Mounts {
		there[m.Destination] = true
		if m.Destination == "/dev/shm" && m.Kind == oci.GuestMount && w.Namespaces.IPC.Shared() {
			w.Mounts[i] = oci.Mount{Kind: oci.BindMount, Purpose: oci.SharedMemory, Destination: m.Destination, Recursive: true}
		}
	}
	for name, purpose := range map[string]oci.Purpose{"hosts": oci.HostsFile, "hostname": oci.HostnameFile, "resolv.conf": oci.ResolvFile} {
		source := podFile(c.bundle, name)
		if _, err := os.Stat(source); err == nil && !there["/etc/"+name] {
			w.Mounts = append(w.Mounts, oci.Mount{Kind: oci.BindMount, Purpose: purpose, Source: source, Destination: "/etc/" + name})
		}
	}
}
