// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"
	"time"

	metrics "github.com/containerd/cgroups/v3/cgroup2/stats"
	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cloister/oci"
	"cloister/runtime/stdio"
)

// Types of JSON documents in an Any: containerd's core/runtime, typeurl.
const (
	processType   = "types.containerd.io/opencontainers/runtime-spec/1/Process"
	resourcesType = "types.containerd.io/opencontainers/runtime-spec/1/LinuxResources"
)

// Status is what State tells of a process.
type Status struct {
	Bundle string
	Pid    uint32 // 0 once it has stopped
	State  State
	Stdio  stdio.Config
	Exited Exited // when State is Stopped
}

// State tells where a process stands.
func (r *Runtime) State(ref Ref) (Status, error) {
	c, p, err := r.process(ref)
	if err != nil {
		return Status{}, err
	}
	state, exited := p.snapshot()
	return Status{Bundle: c.bundle, Pid: r.Pid(), State: state, Stdio: p.stdio, Exited: exited}, nil
}

// Pids gives the machine's pid for a container that exists.
func (r *Runtime) Pids(id string) (uint32, error) {
	if _, err := r.container(id); err != nil {
		return 0, err
	}
	return r.Pid(), nil
}

// Wait blocks until a process has ended.
func (r *Runtime) Wait(ctx context.Context, ref Ref) (Exited, error) {
	_, p, err := r.process(ref)
	if err != nil {
		return Exited{}, err
	}
	return p.wait(ctx)
}

// Pause freezes a container's processes; the machine runs on.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	return r.freeze(ctx, id, Pause)
}

// Resume thaws them.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	return r.freeze(ctx, id, Resume)
}

func (r *Runtime) freeze(ctx context.Context, id string, on Event) error {
	c, p, err := r.process(Ref{Container: id})
	if err != nil {
		return err
	}
	if err := p.allows(on); err != nil {
		return err
	}
	if c.pause {
		return fmt.Errorf("%s %s: a pod's pause container has nothing to freeze: %w", on, id, errdefs.ErrNotImplemented)
	}
	box, err := r.box()
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // what the guest has done is so, also when the client has gone
	task := box.Guest().Task()
	if on == Pause {
		_, err = task.Pause(ctx, &taskapi.PauseRequest{ID: id})
	} else if err = box.SetTime(ctx); err == nil {
		_, err = task.Resume(ctx, &taskapi.ResumeRequest{ID: id})
	}
	if err != nil {
		return box.Explain(err)
	}
	if err := p.apply(on); err != nil {
		return err
	}
	if on == Pause {
		r.publish(&eventsapi.TaskPaused{ContainerID: id})
	} else {
		r.publish(&eventsapi.TaskResumed{ContainerID: id})
	}
	return nil
}

// Kill sends a signal to a process, or to all of a container. A process that has
// ended is ErrNotFound, as runc's users know it.
func (r *Runtime) Kill(ctx context.Context, ref Ref, signal uint32, all bool) error {
	c, p, err := r.process(ref)
	if err != nil {
		return err
	}
	if err := p.settled(ctx); err != nil {
		return err
	}
	state, _ := p.snapshot()
	if state == Stopped {
		return fmt.Errorf("%s: process has already finished: %w", ref, errdefs.ErrNotFound)
	}
	if c.pause {
		killPause(p, unix.Signal(signal))
		return nil
	}
	if state == Created && ref.Exec != "" {
		return fmt.Errorf("kill %s, which has not started: %w", ref, errdefs.ErrFailedPrecondition)
	}
	box, err := r.box()
	if err != nil {
		return err
	}
	_, err = box.Guest().Task().Kill(ctx, &taskapi.KillRequest{ID: ref.Container, ExecID: ref.Exec, Signal: signal, All: all})
	return box.Explain(err)
}

// killPause ends a pause container as the real one would end.
func killPause(p *process, signal unix.Signal) {
	switch signal {
	case unix.SIGINT, unix.SIGTERM:
		p.exited(Exited{Status: 0, At: now()})
	case unix.SIGKILL:
		p.exited(Exited{Status: 128 + uint32(unix.SIGKILL), At: now()})
	default: // the real one handles no other
	}
}

// ResizePty sets the size of a process's terminal.
func (r *Runtime) ResizePty(ctx context.Context, ref Ref, width, height uint32) error {
	c, p, err := r.process(ref)
	if err != nil || c.pause {
		return err
	}
	if state, _ := p.snapshot(); state == Created && ref.Exec != "" {
		return nil // the guest does not have it yet; clients set the size again once it runs
	}
	box, err := r.box()
	if err != nil {
		return err
	}
	_, err = box.Guest().Task().ResizePty(ctx, &taskapi.ResizePtyRequest{ID: ref.Container, ExecID: ref.Exec, Width: width, Height: height})
	return box.Explain(err)
}

// CloseStdin ends a process's standard input once what was written has arrived.
func (r *Runtime) CloseStdin(_ context.Context, ref Ref) error {
	_, p, err := r.process(ref)
	if err != nil {
		return err
	}
	return p.closeStdin()
}

// Update changes a container's limits; resources is the OCI document as JSON.
func (r *Runtime) Update(ctx context.Context, id string, resources []byte) error {
	c, err := r.container(id)
	if err != nil {
		return err
	}
	update, err := oci.ParseResources(resources, r.options())
	if err != nil || c.pause {
		return err
	}
	box, err := r.box()
	if err != nil {
		return err
	}
	spec, err := update.GuestResources(box.ContainerMemory())
	if err != nil {
		return err
	}
	_, err = box.Guest().Task().Update(ctx, &taskapi.UpdateTaskRequest{ID: id, Resources: &anypb.Any{TypeUrl: resourcesType, Value: spec}})
	return box.Explain(err)
}

// Stats gives a container's cgroup v2 metrics, as the guest measures them.
func (r *Runtime) Stats(ctx context.Context, id string) (*metrics.Metrics, error) {
	c, err := r.container(id)
	if err != nil {
		return nil, err
	}
	out := &metrics.Metrics{}
	if c.pause {
		return out, nil
	}
	box, err := r.box()
	if err != nil {
		return nil, err
	}
	resp, err := box.Guest().Task().Stats(ctx, &taskapi.StatsRequest{ID: id})
	if err != nil {
		return nil, box.Explain(err)
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(resp.GetStats().GetValue(), out); err != nil {
		return nil, fmt.Errorf("stats of the guest: %w", err)
	}
	return out, nil
}

func guestProcess(p *oci.Process) (*anypb.Any, error) {
	spec, err := p.GuestProcess()
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: processType, Value: spec}, nil
}

func exitEvent(container, id string, pid uint32, e Exited) *eventsapi.TaskExit {
	return &eventsapi.TaskExit{ContainerID: container, ID: id, Pid: pid, ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At)}
}

func now() time.Time { return time.Now() }
