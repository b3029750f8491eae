// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cloister/sandbox/hooks"
)

// Delete forgets a process that has ended or never ran, after its output has been delivered. With a
// container's first process the container goes, and with the last container the sandbox. A process
// that runs is ErrFailedPrecondition. When a guest that is there refuses, the process stays and
// Delete may be repeated.
func (r *Runtime) Delete(ctx context.Context, ref Ref) (pid uint32, _ Exited, _ error) {
	c, p, err := r.claimDelete(ctx, ref)
	if err != nil {
		return 0, Exited{}, err
	}
	defer p.endDelete()
	pid = r.Pid()
	if err := r.deleteGuest(ctx, c, p); err != nil {
		return 0, Exited{}, err
	}
	// A process that never ran must have an exit before it is deleted: containerd waits for it.
	p.exited(neverStarted(ref))
	if err := p.apply(Delete, func() {}); err != nil {
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

// claimDelete finds a process that may be deleted, once nobody else starts or deletes it. After the
// wait it looks again: the other call may have deleted the process, which is then not found.
func (r *Runtime) claimDelete(ctx context.Context, ref Ref) (*container, *process, error) {
	for {
		c, p, err := r.process(ref)
		if err != nil {
			return nil, nil, err
		}
		busy, err := p.beginDelete()
		if err != nil {
			return nil, nil, err
		}
		if busy == nil {
			return c, p, nil
		}
		select {
		case <-busy:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("%s: another call is under way: %w", ref, ctx.Err())
		}
	}
}

// neverStarted is the end of a process that is deleted without having run: a container's is killed,
// an exec's never was.
func neverStarted(ref Ref) Exited {
	if ref.Exec != "" {
		return Exited{At: time.Now()}
	}
	return Exited{Status: exitGuestDied, At: time.Now()}
}

// deleteGuest drains the process's output and has the guest forget it. A guest that is gone has
// forgotten, and one that nobody else will use is ended. The order matters: output is in the
// guest's memory until it is drained. A stream is closed only when the guest's process is gone,
// since that process would get an error otherwise.
func (r *Runtime) deleteGuest(ctx context.Context, c *container, p *process) error {
	m, err := r.running()
	if err != nil || c.pause {
		return p.closeIO()
	}
	phase := func(name string) func() { return func() { m.Trace.reached(name) } }
	if p == c.init {
		phase = func(name string) func() { return m.Trace.phase(ctx, name) }
	}
	done := phase("drain")
	if p.hasRun() { // else there is no output, and the guest's end stays open until its process is gone
		p.drain(ctx)
	}
	done()
	if p == c.init && r.last(c) {
		// Killing the machine is quicker than a delete in the guest. Halt declines where the guest
		// still has something to write back.
		halted, err := m.Sandbox.Halt(ctx)
		if halted || err != nil {
			return errors.Join(err, p.closeIO())
		}
	}
	done = phase("delete")
	_, err = m.Guest.Task().Delete(ctx, &taskapi.DeleteRequest{ID: c.id, ExecID: p.ref.Exec})
	done()
	if err != nil && !gone(err) {
		return err
	}
	return p.closeIO()
}

// retire takes a container out, and the sandbox with the last one. Its errors cannot be the
// client's: the container is gone either way, and a failed Delete would be repeated for ever. What
// could not be taken back is in the sandbox's record, for delete or gc.
func (r *Runtime) retire(ctx context.Context, c *container) {
	m, err := r.running()
	if err == nil && !c.pause {
		if err := m.Sandbox.Remove(ctx, c.id); err != nil {
			log.G(ctx).WithError(err).WithField("id", c.id).Warn("remove container")
		}
	}
	for _, p := range c.all() { // execs that nobody has deleted
		if err := p.closeIO(); err != nil {
			log.G(ctx).WithError(err).WithField("id", c.id).Warnf("close the streams of %s", p.ref)
		}
	}
	r.after(ctx, c, c.workload.Hooks.Poststop, hooks.Stopped)
	// The id is freed before the sandbox is closed: only then is the runtime empty.
	r.forget(c.id)
	if c.pause || r.Empty() {
		if err := r.Close(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("destroy sandbox")
		}
	}
}

// gone is true when the guest has nothing left to be asked about: it does not know the process, or
// the connection has ended with the machine.
func gone(err error) bool {
	return errdefs.IsNotFound(err) || errdefs.IsUnavailable(err)
}
