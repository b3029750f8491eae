// SPDX-License-Identifier: Apache-2.0

package events

import (
	"context"
	"fmt"
	"sync"
	"time"

	core "github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"

	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
)

// limit bounds the events that the host has not taken. Who publishes more
// waits: an exit must not be lost.
const limit = 512

// Queue numbers events and hands them out. It is containerd's shim.Publisher.
type Queue struct {
	mu      sync.Mutex
	events  []*guestv1.Event // seq ascending without gaps
	last    uint64
	changed chan struct{} // closed and replaced at each change
}

// New is an empty queue.
func New() *Queue { return &Queue{changed: make(chan struct{})} }

// Publish appends an event. It waits while the queue is full.
func (q *Queue) Publish(ctx context.Context, topic string, event core.Event) error {
	body, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", topic, err)
	}
	if len(body.GetValue()) > guestapi.MaxEventBytes {
		return fmt.Errorf("event %s of %d bytes: %w", topic, len(body.GetValue()), errdefs.ErrOutOfRange)
	}
	e := &guestv1.Event{Topic: topic, TimeUnixNano: time.Now().UnixNano(), Event: body}
	for {
		changed, ok := q.add(e)
		if ok {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Close has nothing to end; it is part of shim.Publisher.
func (q *Queue) Close() error { return nil }

func (q *Queue) add(e *guestv1.Event) (<-chan struct{}, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.events) >= limit {
		return q.changed, false
	}
	q.last++
	e.Seq = q.last
	q.events = append(q.events, e)
	q.signal()
	return nil, true
}

// Poll forgets events up to after and gives those above it, waiting up to wait
// for the first.
func (q *Queue) Poll(ctx context.Context, after uint64, wait time.Duration) ([]*guestv1.Event, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		events, changed, err := q.take(after)
		if err != nil || len(events) > 0 {
			return events, err
		}
		select {
		case <-changed:
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

func (q *Queue) take(after uint64) ([]*guestv1.Event, <-chan struct{}, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if after > q.last {
		return nil, nil, fmt.Errorf("events after %d of %d: %w", after, q.last, errdefs.ErrOutOfRange)
	}
	first := q.last - uint64(len(q.events)) // seq before the first kept
	if after > first {
		clear(q.events[:after-first])
		q.events = q.events[after-first:]
		q.signal()
	}
	n := min(len(q.events), guestapi.MaxEvents)
	return append([]*guestv1.Event(nil), q.events[:n]...), q.changed, nil
}

func (q *Queue) signal() {
	close(q.changed)
	q.changed = make(chan struct{})
}
