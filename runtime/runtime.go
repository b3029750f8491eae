// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"
	"os"
	"sync"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"cloister/oci"
	"cloister/sandbox"
	"cloister/sandbox/hooks"
)

// exitGuestDied is what a process ends with when its machine is gone: as if killed, 128 and
// SIGKILL.
const exitGuestDied = 137

// exitNotStarted is the status of an exec that never ran, as runc's clients see it.
const exitNotStarted = 255

// Publisher takes containerd's task events in the order in which they happened. Publish must not
// block: it is called while states are held. An error loses the event, and is logged.
type Publisher interface {
	Publish(ctx context.Context, event any) error
}

// Load reads the configuration at path, or the host's when path is empty, for a
// sandbox whose first container has that bundle.
type Load func(bundle, path string) (sandbox.Config, error)

// Runtime holds the containers of one sandbox. Its zero value is not usable. Locks are taken in the
// order closing, a process's mu, then mu or a container's mu. Only closing is held during a call to
// the sandbox, and none during a call to the guest.
type Runtime struct {
	load      Load
	launch    StartSandbox
	namespace string
	events    Publisher
	hooks     hooks.Namespaces
	ctx       context.Context //nolint:containedctx // the daemon's own, for what no caller asked for

	closing sync.Mutex // held before mu

	mu         sync.Mutex
	containers map[string]*container // nil value: a create is under way
	machine    *Machine              // nil before the first create and after the last delete
	config     sandbox.Config        // the machine's
	starting   bool                  // a create is starting the machine
}

// New makes the runtime of a shim: launch starts its sandbox, namespace is containerd's, mounts the
// mount namespace for hooks. What happens without anybody's call is logged to ctx and ends with it.
// Nothing is started.
func New(ctx context.Context, load Load, launch StartSandbox, namespace string, mounts *os.File, events Publisher) *Runtime {
	return &Runtime{
		ctx: ctx, load: load, launch: launch, namespace: namespace, hooks: hooks.Namespaces{Mount: mounts}, events: events,
		containers: map[string]*container{},
	}
}

// publish sends an event with the daemon's own context: an event about what has happened is sent
// also when the client that caused it has gone.
func (r *Runtime) publish(event any) {
	if err := r.events.Publish(r.ctx, event); err != nil {
		log.G(r.ctx).WithError(err).Errorf("publish %T", event)
	}
}

// container finds a container; one that is still being created does not exist yet.
func (r *Runtime) container(id string) (*container, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	c := r.containers[id]
	if c == nil {
		return nil, fmt.Errorf("container %s: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// process finds the container and the process that a client means.
func (r *Runtime) process(ref Ref) (*container, *process, error) {
	c, err := r.container(ref.Container)
	if err != nil {
		return nil, nil, err
	}
	p, err := c.process(ref.Exec)
	return c, p, err
}

// running is the machine, or an error once it is gone. A machine that has just died is still given;
// calls to its guest then fail with the reason of its end.
func (r *Runtime) running() (*Machine, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.machine == nil {
		return nil, fmt.Errorf("the sandbox has stopped: %w", errdefs.ErrFailedPrecondition)
	}
	return r.machine, nil
}

// options are the rules of the machine's configuration for workloads.
func (r *Runtime) options() oci.Options {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.config.Workloads
}

// Pid is the host's pid of the machine, 0 when there is none: the only pid that leaves the shim. A
// pid of the guest would name another process on the host, and engines send signals and read /proc
// by it.
func (r *Runtime) Pid() uint32 {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.machine == nil {
		return 0
	}
	return uint32(r.machine.Pid)
}

// Empty is true when no container is left or being created. The daemon ends then.
func (r *Runtime) Empty() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.containers) == 0
}

// watch ends every process of a machine when the machine has ended, however that came. Clients wait
// for exits and would otherwise wait for ever: the guest cannot report any more.
func (r *Runtime) watch(m *Machine) {
	end := m.Sandbox.Wait()
	// It is closed before the containers are listed: a Create that is not yet in the list sees it
	// closed.
	close(m.ended)
	if end.Reason != nil {
		log.G(r.ctx).WithError(end.Reason).Error("the machine ended unexpectedly")
	}
	for _, c := range r.all() {
		if c.machine.Load() != m {
			continue // of the next machine
		}
		// In a pod an OOM event would read OOMKilled, as if the workload had used too much: what
		// the host has killed for its machine is an Error there, and the log has the reason.
		if state, _ := c.init.snapshot(); end.OutOfMemory && state != Stopped && c.workload.Role == oci.Single {
			r.publish(&eventsapi.TaskOOM{ContainerID: c.id})
		}
		c.died()
	}
}

// all gives the containers whose create is over, in no order.
func (r *Runtime) all() []*container {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := make([]*container, 0, len(r.containers))
	for _, c := range r.containers {
		if c != nil {
			all = append(all, c)
		}
	}
	return all
}

// Close stops the sandbox, whatever still runs in it. A second caller waits until the first has
// finished: the daemon, for one, which a signal may end during a delete.
func (r *Runtime) Close(ctx context.Context) error {
	r.closing.Lock()
	defer r.closing.Unlock()
	r.mu.Lock()
	// The machine is taken out first: calls from now on fail instead of meeting a guest that is
	// being ended.
	m := r.machine
	r.machine = nil
	r.mu.Unlock()
	if m == nil {
		return nil
	}
	return m.Sandbox.Destroy(ctx)
}
