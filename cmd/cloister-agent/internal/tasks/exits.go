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

// exits passes events on, and remembers whose TaskExit has passed.
type exits struct {
	cshim.Publisher
	status func(p process, status uint32) uint32 // gives the status to be told; nil: as it is

	mu   sync.Mutex
	seen map[process]chan struct{} // closed when it has passed
}

func newExits(p cshim.Publisher) *exits {
	return &exits{Publisher: p, seen: map[process]chan struct{}{}}
}

func (e *exits) Publish(ctx context.Context, topic string, event core.Event) error {
	exit, ok := event.(*events.TaskExit)
	if !ok {
		return e.Publisher.Publish(ctx, topic, event)
	}
	p := process{container: containers.ID(exit.GetContainerID())}
	if exit.GetID() != exit.GetContainerID() {
		p.exec = containers.ID(exit.GetID())
	}
	if e.status != nil {
		exit.ExitStatus = e.status(p, exit.GetExitStatus())
	}
	err := e.Publisher.Publish(ctx, topic, exit)
	e.pass(p)
	return err
}

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

// channel needs mu.
func (e *exits) channel(p process) chan struct{} {
	c, ok := e.seen[p]
	if !ok {
		c = make(chan struct{})
		e.seen[p] = c
	}
	return c
}

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
