// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"fmt"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/oci"
	"cloister/runtime/stdio"
)

// processType names an OCI process as JSON in an Any: containerd's core/runtime, typeurl.
const processType = "types.containerd.io/opencontainers/runtime-spec/1/Process"

// ExecRequest asks for another process in a container. Ref.Exec is an id that is free in the
// container.
type ExecRequest struct {
	Ref   Ref
	Spec  []byte // the OCI process, as JSON
	Stdio stdio.Config
}

// Exec adds a process; Start runs it. The guest learns of it at Start, as clients rely on with
// runc: a client may open its ends of the FIFOs in between. So nothing has to be taken back if the
// client goes. The container must run; the specification is checked here and can be refused.
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
	// The event must not come after the container's exit.
	return c.init.whileRunning(func() error {
		if err := c.add(p); err != nil {
			return err
		}
		r.publish(&eventsapi.TaskExecAdded{ContainerID: c.id, ExecID: req.Ref.Exec})
		return nil
	})
}

// exec gives the guest the process. That is part of its start: clients expect their streams to be
// opened no earlier. The guest's answer is waited for without the client, since nobody else could
// tell whether the guest has the process; one that nobody wants is deleted.
func (p *process) exec(ctx context.Context, m *Machine) error {
	tokens, err := p.openIO(ctx, m.Guest)
	if err != nil {
		return err
	}
	m.Trace.reached("exec streams")
	whole := context.WithoutCancel(ctx)
	_, err = m.Guest.Task().Exec(whole, &taskapi.ExecProcessRequest{
		ID: p.ref.Container, ExecID: p.ref.Exec, Terminal: p.stdio.Terminal, Spec: p.spec,
		Stdin: tokens.stdin, Stdout: tokens.stdout, Stderr: tokens.stderr,
	})
	if err != nil {
		return err
	}
	if ctx.Err() != nil { // the client has gone: nobody wants it started
		_, err = m.Guest.Task().Delete(whole, &taskapi.DeleteRequest{ID: p.ref.Container, ExecID: p.ref.Exec})
		return errors.Join(ctx.Err(), err)
	}
	m.Trace.reached("exec made")
	return nil
}

// guestProcess wraps the process as containerd's typeurl does it, for the guest's Task API.
func guestProcess(p *oci.Process) (*anypb.Any, error) {
	spec, err := p.GuestProcess()
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: processType, Value: spec}, nil
}
