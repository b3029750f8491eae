// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cloister/oci"
	"cloister/runtime/stdio"
	"cloister/sandbox"
	"cloister/sandbox/hooks"
)

// Start starts a created process and returns the machine's pid.
func (r *Runtime) Start(ctx context.Context, ref Ref) (uint32, error) {
	c, p, err := r.process(ref)
	if err != nil {
		return 0, err
	}
	box, err := r.box()
	if err != nil {
		return 0, err
	}
	call := func() error {
		if c.pause {
			return nil
		}
		if ref.Exec != "" {
			if err := p.exec(ctx, box); err != nil {
				return err
			}
			defer box.Reached("exec started")
		} else {
			if err := errors.Join(box.SyncNetwork(ctx), box.Refresh(ctx, c.id)); err != nil {
				return err
			}
			defer box.Phase(ctx, "start")()
		}
		// The guest's answer is waited for: a process that runs there runs here, also when the client has gone.
		_, err := box.Guest().Task().Start(context.WithoutCancel(ctx), &taskapi.StartRequest{ID: ref.Container, ExecID: ref.Exec})
		return box.Explain(err)
	}
	announce := func() {
		if ref.Exec == "" {
			r.publish(&eventsapi.TaskStart{ContainerID: ref.Container, Pid: uint32(box.Pid())})
			return
		}
		r.publish(&eventsapi.TaskExecStarted{ContainerID: ref.Container, ExecID: ref.Exec, Pid: uint32(box.Pid())})
	}
	if err := p.start(call, announce); err != nil {
		return 0, err
	}
	if ref.Exec == "" {
		r.after(ctx, c, c.workload.Hooks.Poststart, hooks.Running)
		box.Note(ctx)
	}
	return uint32(box.Pid()), nil
}

// ExecRequest asks for another process in a container.
type ExecRequest struct {
	Ref   Ref
	Spec  []byte // the OCI process, as JSON
	Stdio stdio.Config
}

// Exec adds a process; Start runs it.
func (r *Runtime) Exec(_ context.Context, req ExecRequest) error {
	c, err := r.container(req.Ref.Container)
	if err != nil {
		return err
	}
	if state, _ := c.init.snapshot(); state != Running {
		return fmt.Errorf("exec in container %s, which is %s: %w", c.id, state, errdefs.ErrFailedPrecondition)
	}
	if c.pause {
		return fmt.Errorf("exec in %s: the pause container has no files of its own: %w", c.id, errdefs.ErrNotImplemented)
	}
	process, err := oci.ParseProcess(req.Spec, r.options())
	if err != nil {
		return err
	}
	spec, err := guestProcess(process)
	if err != nil {
		return err
	}
	p := newProcess(req.Ref, req.Stdio, r.exited)
	p.spec = spec
	if err := c.add(p); err != nil {
		return err
	}
	r.publish(&eventsapi.TaskExecAdded{ContainerID: c.id, ExecID: req.Ref.Exec})
	return nil
}

// exec gives the guest the process. That is part of its start: clients expect
// their streams to be opened no earlier.
func (p *process) exec(ctx context.Context, box *sandbox.Sandbox) error {
	tokens, err := p.openIO(ctx, box)
	if err != nil {
		return err
	}
	box.Reached("exec streams")
	whole := context.WithoutCancel(ctx)
	_, err = box.Guest().Task().Exec(whole, &taskapi.ExecProcessRequest{
		ID: p.ref.Container, ExecID: p.ref.Exec, Terminal: p.stdio.Terminal, Spec: p.spec,
		Stdin: tokens.stdin, Stdout: tokens.stdout, Stderr: tokens.stderr,
	})
	if err != nil {
		return box.Explain(err)
	}
	if ctx.Err() != nil { // the client has gone: nobody wants it started
		_, err = box.Guest().Task().Delete(whole, &taskapi.DeleteRequest{ID: p.ref.Container, ExecID: p.ref.Exec})
		return errors.Join(ctx.Err(), box.Explain(err))
	}
	box.Reached("exec made")
	return nil
}

// Delete forgets a process that has ended or never ran, after its output has
// been delivered. With a container's first process the container goes, and with
// the last container the sandbox.
func (r *Runtime) Delete(ctx context.Context, ref Ref) (pid uint32, _ Exited, _ error) {
	c, p, err := r.process(ref)
	if err != nil {
		return 0, Exited{}, err
	}
	if err := p.settled(ctx); err != nil {
		return 0, Exited{}, err
	}
	if err := p.allows(Delete); err != nil {
		return 0, Exited{}, err
	}
	pid = r.Pid()
	if err := r.deleteGuest(ctx, c, p); err != nil {
		return 0, Exited{}, err
	}
	p.exited(neverStarted(ref))
	if err := p.apply(Delete); err != nil {
		return 0, Exited{}, err
	}
	_, exited := p.snapshot()
	if ref.Exec != "" {
		c.drop(ref.Exec)
		return pid, exited, nil
	}
	r.retire(ctx, c)
	r.publish(&eventsapi.TaskDelete{ContainerID: c.id, Pid: pid, ExitStatus: exited.Status, ExitedAt: timestamppb.New(exited.At)})
	return pid, exited, nil
}

// neverStarted is the end of a process that is deleted without having run: a
// container's is killed, an exec's never was.
func neverStarted(ref Ref) Exited {
	if ref.Exec != "" {
		return Exited{At: now()}
	}
	return Exited{Status: exitGuestDied, At: now()}
}

// deleteGuest drains the process's output and has the guest forget it. A guest
// that is gone has forgotten, and one that nobody else will use is ended.
func (r *Runtime) deleteGuest(ctx context.Context, c *container, p *process) error {
	box, err := r.box()
	if err != nil || c.pause {
		return p.closeIO()
	}
	phase := func(name string) func() { return func() { box.Reached(name) } }
	if p == c.init {
		phase = func(name string) func() { return box.Phase(ctx, name) }
	}
	done := phase("drain")
	p.drain(ctx)
	done()
	if p == c.init && r.last(c) {
		halted, err := box.Halt(ctx)
		if halted || err != nil {
			return errors.Join(err, p.closeIO())
		}
	}
	done = phase("delete")
	_, err = box.Guest().Task().Delete(ctx, &taskapi.DeleteRequest{ID: c.id, ExecID: p.ref.Exec})
	done()
	if err != nil && !gone(err) {
		return box.Explain(err)
	}
	return p.closeIO()
}

// retire takes a container out, and the sandbox with the last one. Its errors
// cannot be the client's: the container is gone either way.
func (r *Runtime) retire(ctx context.Context, c *container) {
	box, err := r.box()
	if err == nil && !c.pause {
		if err := box.Remove(ctx, c.id); err != nil {
			log.G(ctx).WithError(err).WithField("id", c.id).Warn("remove container")
		}
	}
	r.after(ctx, c, c.workload.Hooks.Poststop, hooks.Stopped)
	r.forget(c.id)
	if c.pause || r.Empty() {
		if err := r.Close(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("destroy sandbox")
		}
	}
}

// gone is true when the guest has nothing left to be asked about.
func gone(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsUnavailable(err)
}
