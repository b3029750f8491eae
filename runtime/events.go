// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cloister/sandbox/guestapi"
)

// endLimit is how long a machine may take to end once its guest has hung up.
const endLimit = 5 * time.Second

// listen takes two kinds of the guest's events: exits and out of memory. All others are made here,
// with the host's pid in them.
func (r *Runtime) listen(m *Machine, ended <-chan struct{}) {
	err := m.Guest.Events(r.ctx, func(e guestapi.Event) error {
		switch body := e.Body.(type) {
		case *eventsapi.TaskExit:
			r.guestExit(body)
		case *eventsapi.TaskOOM:
			if _, err := r.container(body.GetContainerID()); err == nil {
				r.publish(&eventsapi.TaskOOM{ContainerID: body.GetContainerID()})
			}
		}
		return nil
	})
	select {
	case <-ended:
	case <-time.After(endLimit): // a machine that ends hangs up a little earlier
		log.G(r.ctx).WithError(err).Warn("the guest's events have ended")
	}
}

func (r *Runtime) guestExit(e *eventsapi.TaskExit) {
	ref := Ref{Container: e.GetContainerID()}
	if e.GetID() != e.GetContainerID() {
		ref.Exec = e.GetID()
	}
	r.mu.Lock()
	c := r.containers[ref.Container]
	r.mu.Unlock()
	if c == nil {
		return
	}
	if p, err := c.process(ref.Exec); err == nil {
		go r.settle(c, p, Exited{Status: e.GetExitStatus(), At: time.Now()})
	}
}

// settle tells of an exit once the output has arrived, and of a container's own
// after those of its execs, which the guest has told before. It ends with them, or
// when nothing moves any more.
func (r *Runtime) settle(c *container, p *process, e Exited) {
	if io := p.streams(); io != nil {
		io.Settle(r.ctx)
	}
	if p == c.init {
		for _, exec := range c.all() {
			if exec != p && exec.hasRun() {
				select {
				case <-exec.done:
				case <-r.ctx.Done():
				}
			}
		}
	}
	p.exited(e)
}

// exited publishes an exit; the process calls it once.
func (r *Runtime) exited(ref Ref, e Exited) {
	id := ref.Exec
	if id == "" {
		id = ref.Container
	}
	r.publish(exitEvent(ref.Container, id, r.Pid(), e))
}

func exitEvent(container, id string, pid uint32, e Exited) *eventsapi.TaskExit {
	return &eventsapi.TaskExit{ContainerID: container, ID: id, Pid: pid, ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At)}
}
