// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"cloister/sandbox/hooks"
)

// Start starts a created process and returns the machine's pid. A process that was started before
// is ErrFailedPrecondition. A container whose start fails stays created until the client deletes
// it; an exec is over. Errors of poststart hooks are logged alone: the process runs.
func (r *Runtime) Start(ctx context.Context, ref Ref) (uint32, error) {
	c, p, err := r.process(ref)
	if err != nil {
		return 0, err
	}
	m, err := r.running()
	if err != nil {
		return 0, err
	}
	if err := p.start(func() error { return startInGuest(ctx, m, c, p) }, func() { r.announce(m, ref) }); err != nil {
		return 0, err
	}
	if ref.Exec == "" {
		r.after(ctx, c, c.workload.Hooks.Poststart, hooks.Running)
		m.Trace.started(ctx)
	}
	return uint32(m.Pid), nil
}

// startInGuest waits for the guest's answer also when the client has gone: what runs in the guest
// runs here. A pod's pause container has nothing to start.
func startInGuest(ctx context.Context, m *Machine, c *container, p *process) error {
	if c.pause {
		return nil
	}
	if p.ref.Exec != "" {
		if err := p.exec(ctx, m); err != nil {
			return err
		}
		defer m.Trace.reached("exec started")
	} else {
		// Engines attach networks and write hosts files between Create and Start. The guest must
		// have them before the first program of the container runs.
		if err := m.Sandbox.Sync(ctx, c.id); err != nil {
			return err
		}
		defer m.Trace.phase(ctx, "start")()
	}
	_, err := m.Guest.Task().Start(context.WithoutCancel(ctx), &taskapi.StartRequest{ID: c.id, ExecID: p.ref.Exec})
	return err
}

// announce publishes a start. It is called with the process's mu held, before any exit of it.
func (r *Runtime) announce(m *Machine, ref Ref) {
	if ref.Exec == "" {
		r.publish(&eventsapi.TaskStart{ContainerID: ref.Container, Pid: uint32(m.Pid)})
		return
	}
	r.publish(&eventsapi.TaskExecStarted{ContainerID: ref.Container, ExecID: ref.Exec, Pid: uint32(m.Pid)})
}
