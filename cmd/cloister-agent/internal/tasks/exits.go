// SPDX-License-Identifier: Apache-2.0

package tasks

import (
	"context"
	"maps"
	"sync"
	"time"

	"github.com/containerd/containerd/api/events"
	core "github.com/containerd/containerd/v2/core/events"
	cshim "github.com/containerd/containerd/v2/pkg/shim"

	"cloister/cmd/cloister-agent/internal/containers"
)

// exitWait bounds how long a call waits for a TaskExit: a process whose start
// failed may have none.
const exitWait = 5 * time.Second

// exits passes events on, and remembers whose TaskExit has passed. The host deletes a process after
// its Wait. If the exit were published later, an engine would see the delete before it. exits is
// safe for concurrent use.
type exits struct {
	cshim.Publisher
	status func(p process, status uint32) uint32 // gives the status to be told; nil: as it is

	mu   sync.Mutex
	seen map[process]chan struct{} // closed when it has passed
}

// newExits wraps a publisher. The status function is set later, by New: service and exits need each
// other.
func newExits(p cshim.Publisher) *exits {
	return &exits{Publisher: p, seen: map[process]chan struct{}{}}
}

// Publish is called by containerd's service, one event at a time. Others than exits pass unchanged.
func (e *exits) Publish(ctx context.Context, topic string, event core.Event) error {
	exit, ok := event.(*events.TaskExit)
	if !ok {
		return e.Publisher.Publish(ctx, topic, event)
	}
	p := process{container: containers.ID(exit.GetContainerID())}
	// containerd gives a container's first process the container's id; here it has none.
	if exit.GetID() != exit.GetContainerID() {
		p.exec = containers.ID(exit.GetID())
	}
	// Changed before it is published: host and engine see one status only.
	if e.status != nil {
		exit.ExitStatus = e.status(p, exit.GetExitStatus())
	}
	err := e.Publisher.Publish(ctx, topic, exit)
	// Also after an error of the publisher: who waits must not wait for good.
	e.pass(p)
	return err
}

// pass closes the channel of a process. A second exit of one process is harmless.
func (e *exits) pass(p process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	c := e.channel(p)
	select {
	case <-c:
	default:
		close(c)
	}
}

// channel needs mu. Whoever comes first makes it, the event or the one who waits.
func (e *exits) channel(p process) chan struct{} {
	c, ok := e.seen[p]
	if !ok {
		c = make(chan struct{})
		e.seen[p] = c
	}
	return c
}

// wait returns when the exit has been published, or nothing was within the limit. It does not tell
// which: the caller goes on either way.
func (e *exits) wait(ctx context.Context, p process) {
	e.mu.Lock()
	c := e.channel(p)
	e.mu.Unlock()
	timer := time.NewTimer(exitWait)
	defer timer.Stop()
	select {
	case <-c:
	case <-timer.C:
	case <-ctx.Done():
	}
}

// forget drops what is remembered of a process; with a container's first process, of its execs
// too, which nobody may have deleted.
func (e *exits) forget(p process) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if p.exec != "" {
		delete(e.seen, p)
		return
	}
	maps.DeleteFunc(e.seen, func(o process, _ chan struct{}) bool { return o.container == p.container })
}
