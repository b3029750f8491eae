// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"cloister/oci"
	"cloister/runtime/stdio"
	"cloister/sandbox"
)

// Mount is one mount of a root file system, as an engine hands it over.
type Mount = sandbox.Mount

// CreateRequest is everything a client says about a new container.
type CreateRequest struct {
	ID     string
	Bundle string // absolute folder that holds config.json
	Rootfs []Mount
	Stdio  stdio.Config
	Config string // path of a configuration of the engine's choice; empty: the host's
}

// docker is containerd's namespace of Docker's containers, unless the daemon is told another one.
// Docker cannot ask a containerd shim for its features, and so says "ro" where it means "rro".
const docker = "moby"

// Create makes a container, starting the sandbox for the first one, and returns the machine's pid.
// On an error nothing of the container is left, and nothing of the sandbox if it was started for
// this container. An id that is taken is ErrAlreadyExists, a configuration that cannot be honoured
// ErrInvalidArgument. A client that disconnects meanwhile takes the container for not made, so it
// is taken back then.
func (r *Runtime) Create(ctx context.Context, req CreateRequest) (_ uint32, err error) {
	// The id is taken before anything slow: of two calls with one id, the second fails at once.
	if err := r.reserve(req.ID); err != nil {
		return 0, err
	}
	c := &container{id: req.ID, bundle: req.Bundle, execs: map[string]*process{}}
	defer func() {
		if err != nil {
			r.forget(req.ID)
		}
	}()
	config, err := r.configFor(req)
	if err != nil {
		return 0, err
	}
	if c.workload, err = readWorkload(config.Workloads, req.Bundle); err != nil {
		return 0, err
	}
	if err := c.workload.CheckFirst(c.id); err != nil {
		return 0, err
	}
	if r.namespace == docker {
		c.workload.ReadOnlyBelow()
	}
	r.equip(c.workload, req.Bundle)
	for _, p := range c.workload.Ignored {
		log.G(ctx).WithField("id", c.id).Debugf("config.json: %s", p)
	}
	c.pause = c.workload.Role == oci.Sandbox
	c.init = newProcess(Ref{Container: c.id}, req.Stdio, r.exited)

	m, started, err := r.enter(ctx, c, config, req.Rootfs)
	if err != nil {
		return 0, err
	}
	if err := r.admit(ctx, m, c, req); err != nil {
		if started {
			err = errors.Join(err, r.Close(ctx))
		}
		return 0, err
	}
	// It is published before the container can be found: any later event of it comes from a call
	// that finds it.
	r.publish(&eventsapi.TaskCreate{
		ContainerID: c.id, Bundle: c.bundle, Rootfs: rootfsEvent(req.Rootfs), Pid: uint32(m.Pid),
		IO: &eventsapi.TaskIO{Stdin: req.Stdio.Stdin, Stdout: req.Stdio.Stdout, Stderr: req.Stdio.Stderr, Terminal: req.Stdio.Terminal},
	})
	c.machine.Store(m)
	r.mu.Lock()
	r.containers[c.id] = c
	r.mu.Unlock()
	select {
	case <-m.ended: // before watch could know of the container
		c.died()
	default:
	}
	return uint32(m.Pid), nil
}

// reserve takes an id. The nil value keeps it from being used before its container is complete, and
// keeps the sandbox from being taken for empty.
func (r *Runtime) reserve(id string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, taken := r.containers[id]; taken {
		return fmt.Errorf("container %s: %w", id, errdefs.ErrAlreadyExists)
	}
	r.containers[id] = nil
	return nil
}

// forget frees an id.
func (r *Runtime) forget(id string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.containers, id)
}

// enter gives the machine a container goes to, started if it is the first. A container that has
// ended may come back to its own machine, which others have kept running. Only one call starts a
// machine; another one meanwhile, and a pod's container before its pod, is ErrFailedPrecondition.
// The machine is started without the lock held, since that takes seconds.
func (r *Runtime) enter(ctx context.Context, c *container, config sandbox.Config, rootfs []Mount) (m *Machine, started bool, err error) {
	if c.workload.Role == oci.Single && c.workload.Namespaces.Network.Pid != 0 {
		m, err = r.joined(c.workload)
		return m, false, err
	}
	r.mu.Lock()
	m, busy := r.machine, r.starting
	var pod *oci.Workload
	if of := r.containers[c.workload.SandboxID]; of != nil {
		pod = of.workload
	}
	if err := c.workload.CheckPod(pod); err != nil {
		r.mu.Unlock()
		return nil, false, err
	}
	first := m == nil && !busy && c.workload.Role != oci.Member
	r.starting = busy || first
	r.mu.Unlock()
	switch {
	case m != nil && c.workload.Role == oci.Single && c.workload.Group == "" && c.id != m.ID:
		return nil, false, fmt.Errorf("container %s: this sandbox has another container and no pod: %w", c.id,
			errdefs.ErrFailedPrecondition)
	case m != nil:
		return m, false, nil
	case !first:
		return nil, false,
			fmt.Errorf("container %s: sandbox %q is not running: start the pod's first container before it (CRI-O: "+
				"drop_infra_ctr = false): %w", c.id, c.workload.SandboxID, errdefs.ErrFailedPrecondition)
	}
	m, err = r.launch(ctx, config, sandbox.Request{
		ID: c.id, Namespace: r.namespace, Bundle: c.bundle,
		Workload: c.workload, Rootfs: rootfs,
	})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.starting = false
	if err != nil {
		return nil, false, err
	}
	r.machine, r.config = m, config
	m.ended = make(chan struct{})
	// Both end with the machine.
	go r.watch(m)
	go r.listen(m)
	return m, true, nil
}

// last is true for a container of no pod that nobody shares a guest with: its machine may be killed
// in place of a delete in the guest.
func (r *Runtime) last(c *container) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return c.workload.Role == oci.Single && c.workload.Group == "" && len(r.containers) == 1
}

// joined gives the sandbox to a container that is to share another's network, which it can only in
// the same guest. Two guests behind one network namespace would both answer for one address. The
// shim's start has led the call here by the pid in the namespace's path; it is checked again, as
// the machine may be another one by now.
func (r *Runtime) joined(w *oci.Workload) (*Machine, error) {
	network := w.Namespaces.Network
	if r.Pid() != uint32(network.Pid) {
		return nil,
			fmt.Errorf("linux.namespaces: the network %s belongs to a process on the host: a guest can share only the network "+
				"of a running container of cloister (--network container:NAME): %w",
				network.Path, errdefs.ErrInvalidArgument)
	}
	if len(w.Sysctls.Kernel) > 0 {
		return nil,
			fmt.Errorf("linux.sysctl: kernel sysctls belong to the guest, which another container has started: "+
				"set them on that container: %w",
				errdefs.ErrInvalidArgument)
	}
	return r.running()
}

// admit puts the container into the sandbox and its first process into state created. The order is
// that of the effects: files first, then streams, since the guest connects its process to them when
// it makes it. Whatever fails takes the earlier steps back, also when the client has gone.
func (r *Runtime) admit(ctx context.Context, m *Machine, c *container, req CreateRequest) error {
	if err := r.before(ctx, c); err != nil || c.pause {
		return err
	}
	joins, err := r.joins(ctx, m, c)
	if err != nil {
		return err
	}
	bundle, err := m.Sandbox.Add(ctx, sandbox.Container{ID: c.id, Bundle: c.bundle, Workload: c.workload, Rootfs: req.Rootfs, Joins: joins})
	if err != nil {
		return err
	}
	undo := func(err error) error {
		return errors.Join(err, c.init.closeIO(), m.Sandbox.Remove(context.WithoutCancel(ctx), c.id))
	}
	tokens, err := c.init.openIO(ctx, m.Guest)
	if err != nil {
		return undo(err)
	}
	m.Trace.reached("streams")
	done := m.Trace.phase(ctx, "create")
	whole := context.WithoutCancel(ctx) // without the guest's answer nobody would know whether it has the container
	_, err = m.Guest.Task().Create(whole, &taskapi.CreateTaskRequest{
		ID: c.id, Bundle: bundle, Terminal: req.Stdio.Terminal,
		Stdin: tokens.stdin, Stdout: tokens.stdout, Stderr: tokens.stderr,
	})
	done()
	if err != nil {
		return undo(c.workload.ExplainMount(err))
	}
	if ctx.Err() != nil { // the client has gone and takes the container for not made
		_, err = m.Guest.Task().Delete(whole, &taskapi.DeleteRequest{ID: c.id})
		return undo(errors.Join(ctx.Err(), err))
	}
	return nil
}

// configFor is the sandbox's configuration, read once for all its containers: a file that is
// changed while a pod runs would give its containers different rules.
func (r *Runtime) configFor(req CreateRequest) (sandbox.Config, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.machine != nil {
		return r.config, nil
	}
	return r.load(req.Bundle, req.Config)
}

// readWorkload reads and checks a bundle's config.json. One byte more than allowed is read, so that
// oci refuses a larger file instead of parsing a part of it.
func readWorkload(opts oci.Options, bundle string) (*oci.Workload, error) {
	name := filepath.Join(bundle, "config.json")
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("bundle: %w: %w", err, errdefs.ErrNotFound)
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, oci.MaxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read %q: %w", name, err)
	}
	return oci.Parse(data, opts)
}

// rootfsEvent is the root file system as the event has it.
func rootfsEvent(mounts []sandbox.Mount) []*types.Mount {
	out := make([]*types.Mount, 0, len(mounts))
	for _, m := range mounts {
		out = append(out, &types.Mount{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return out
}
