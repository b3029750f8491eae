// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"sync"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cloister/sandbox/guestapi"
)

// endLimit is how long a machine may take to end once its guest has hung up. It is for the log
// alone: watch tells of the end.
const endLimit = 5 * time.Second

// oomInterval is the least time between two TaskOOM events of a container. The guest decides how
// many it sends, and each one costs containerd and its clients more than it costs the guest.
const oomInterval = time.Second

// listen takes two kinds of the guest's events: exits and out of memory. All others are made here,
// with the host's pid in them. What it does for an event is bounded, whatever the guest sends: one
// exit for each process, one TaskOOM a second for each container, one log line for all unknown ids.
func (r *Runtime) listen(m *Machine) {
	var unknown sync.Once
	// No error of an event ends the loop: a guest that sends nonsense must not keep others' exits
	// back.
	err := m.Guest.Events(r.ctx, func(e guestapi.Event) error {
		known := true
		switch body := e.Body.(type) {
		case *eventsapi.TaskExit:
			known = r.guestExit(body)
		case *eventsapi.TaskOOM:
			known = r.guestOOM(body.GetContainerID())
		}
		if !known {
			unknown.Do(func() { r.logUnknown(e) })
		}
		return nil
	})
	select {
	case <-m.ended:
	case <-time.After(endLimit): // a machine that ends hangs up a little earlier
		log.G(r.ctx).WithError(err).Warn("the guest's events have ended")
	}
}

// logUnknown writes the one line about events of ids that do not exist here. The id is a guest's
// text: it is shortened and made fit for a log.
func (r *Runtime) logUnknown(e guestapi.Event) {
	id := ""
	if body, ok := e.Body.(interface{ GetContainerID() string }); ok {
		id = body.GetContainerID()
	}
	log.G(r.ctx).Warnf("the guest sent %s of %q, a container or exec that it does not have: ignored, and further ones are not logged",
		e.Topic, guestapi.Text(id, maxLoggedID))
}

// maxLoggedID is how much of an id of the guest's reaches the log, in bytes. containerd's ids are
// at most 76 long.
const maxLoggedID = 80

// guestOOM publishes that a container is out of memory. Within oomInterval of the last time it is
// the same event. known is false for a container that is not here.
func (r *Runtime) guestOOM(id string) (known bool) {
	c, err := r.container(id)
	if err != nil {
		return false
	}
	if c.oomDue(time.Now()) {
		r.publish(&eventsapi.TaskOOM{ContainerID: id})
	}
	return true
}

// guestExit settles a process whose exit the guest reports for the first time. The time is the
// host's: the guest's clock is the guest's to set. settle waits for output, and so has a goroutine
// of its own; there is at most one for each process.
func (r *Runtime) guestExit(e *eventsapi.TaskExit) (known bool) {
	ref := Ref{Container: e.GetContainerID()}
	if e.GetID() != e.GetContainerID() {
		ref.Exec = e.GetID()
	}
	c, p, err := r.process(ref)
	if err != nil {
		return false
	}
	if p.reported() {
		go r.settle(c, p, Exited{Status: e.GetExitStatus(), At: time.Now()})
	}
	return true
}

// settle tells of an exit once the output has arrived, and of a container's own after those of its
// execs, which the guest has told before. It ends with them, or when nothing moves any more.
// Clients stop reading when they learn of the exit, so an exit that overtakes the output would cut
// it off.
func (r *Runtime) settle(c *container, p *process, e Exited) {
	if io := p.streams(); io != nil {
		io.Settle(r.ctx)
	}
	if p == c.init {
		for _, exec := range c.all() {
			// An exec that was never started has no exit that would come.
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

// exited publishes an exit; the process calls it once, with its mu held, so that no other event of
// the process comes after it.
func (r *Runtime) exited(ref Ref, e Exited) {
	id := ref.Exec
	if id == "" {
		id = ref.Container
	}
	r.publish(exitEvent(ref.Container, id, r.Pid(), e))
}

// exitEvent is the event, in which the pid is the machine's and a container's own process has the
// container's id.
func exitEvent(container, id string, pid uint32, e Exited) *eventsapi.TaskExit {
	return &eventsapi.TaskExit{ContainerID: container, ID: id, Pid: pid, ExitStatus: e.Status, ExitedAt: timestamppb.New(e.At)}
}
