// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Kill sends a signal to a process, or to all of a container. A process that has ended, also with
// its guest, is ErrNotFound, as runc's users know it. An exec that has not started is
// ErrFailedPrecondition. The exit comes as an event and not from here.
func (r *Runtime) Kill(ctx context.Context, ref Ref, signal uint32, all bool) error {
	c, p, err := r.process(ref)
	if err != nil {
		return err
	}
	// A client whose exec timed out kills it at once, while the guest may still be starting it.
	if err := p.settled(ctx); err != nil {
		return err
	}
	state, _ := p.snapshot()
	if state == Stopped {
		return finished(ref)
	}
	if c.pause {
		killPause(p, unix.Signal(signal))
		return nil
	}
	if state == Created && ref.Exec != "" {
		return fmt.Errorf("kill %s, which has not started: %w", ref, errdefs.ErrFailedPrecondition)
	}
	m, err := r.running()
	if err != nil {
		return finished(ref)
	}
	_, err = m.Guest.Task().Kill(ctx, &taskapi.KillRequest{ID: ref.Container, ExecID: ref.Exec, Signal: signal, All: all})
	return err
}

func finished(ref Ref) error {
	return fmt.Errorf("%s: process has already finished: %w", ref, errdefs.ErrNotFound)
}

// killPause ends a pause container as the real one would end. That handles SIGINT and SIGTERM; as
// process 1 of its pid namespace it ignores all signals without a handler.
func killPause(p *process, signal unix.Signal) {
	switch signal {
	case unix.SIGINT, unix.SIGTERM:
		p.exited(Exited{Status: 0, At: time.Now()})
	case unix.SIGKILL:
		p.exited(Exited{Status: 128 + uint32(unix.SIGKILL), At: time.Now()})
	default: // the real one handles no other
	}
}
