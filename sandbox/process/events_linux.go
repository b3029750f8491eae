// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"os"
	"sync"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
)

// Publisher takes containerd's task events in the order in which they happened. It must not block.
// containerd's service logs an error and goes on: whoever implements it keeps what could not be
// sent.
type Publisher interface {
	Publish(ctx context.Context, event any) error
}

// publisher is containerd's shim.Publisher. It gives events the engine's bundle and streams in
// place of ours. Engines look for a container by the bundle that they gave.
type publisher struct {
	to     Publisher
	bundle func(id string) string
	null   func() *os.File
	ended  chan struct{} // closed once the last event has been passed on
	once   sync.Once
}

// Publish leaves the topic out: the shim's queue finds it by the event's type.
func (p *publisher) Publish(ctx context.Context, _ string, event events.Event) error {
	if create, ok := event.(*eventsapi.TaskCreate); ok {
		create.Bundle = p.bundle(create.GetContainerID())
		if create.IO != nil {
			asked(p.null(), &create.IO.Stdout, &create.IO.Stderr)
		}
	}
	return p.to.Publish(ctx, event)
}

// Close is called by containerd's service after its last event.
func (p *publisher) Close() error {
	p.once.Do(func() { close(p.ended) })
	return nil
}
