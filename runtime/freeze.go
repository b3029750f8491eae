// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
)

// Pause freezes a container's processes; the machine runs on, and so do other containers of the
// pod. A container that does not run is ErrFailedPrecondition.
func (r *Runtime) Pause(ctx context.Context, id string) error {
	return r.freeze(ctx, id, Pause)
}

// Resume thaws them. The guest's clock is set before, since it may have stood still.
func (r *Runtime) Resume(ctx context.Context, id string) error {
	return r.freeze(ctx, id, Resume)
}

// freeze is Pause and Resume. The state changes after the guest has done it; of two calls at once,
// the second finds a state in which its event is illegal.
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
	m, err := r.running()
	if err != nil {
		return err
	}
	ctx = context.WithoutCancel(ctx) // what the guest has done is so, also when the client has gone
	task := m.Guest.Task()
	if on == Pause {
		_, err = task.Pause(ctx, &taskapi.PauseRequest{ID: id})
	} else if err = m.Guest.SetTime(ctx); err == nil {
		_, err = task.Resume(ctx, &taskapi.ResumeRequest{ID: id})
	}
	if err != nil {
		return err
	}
	return p.apply(on, func() {
		if on == Pause {
			r.publish(&eventsapi.TaskPaused{ContainerID: id})
		} else {
			r.publish(&eventsapi.TaskResumed{ContainerID: id})
		}
	})
}
