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
// waits: an exit must not be lost. Holding up a publisher holds up containerd's task service in the
// guest, not the host, which can poll at any time.
const limit = 512

// Queue numbers events and hands them out. It is containerd's shim.Publisher. The zero value is not
// usable: take New.
type Queue struct {
	mu      sync.Mutex
	events  []*guestv1.Event // seq ascending without gaps
	last    uint64
	changed chan struct{} // closed and replaced at each change
}

// New is an empty queue.
func New() *Queue { return &Queue{changed: make(chan struct{})} }

// Publish appends an event. It waits while the queue is full. An event that is larger than the
// contract allows is errdefs.ErrOutOfRange and is not kept: the host would refuse the whole answer,
// and every event after it with it.
func (q *Queue) Publish(ctx context.Context, topic string, event core.Event) error {
	body, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		return fmt.Errorf("encode event %s: %w", topic, err)
	}
	if len(body.GetValue()) > guestapi.MaxEventBytes {
		return fmt.Errorf("event %s of %d bytes: %w", topic, len(body.GetValue()), errdefs.ErrOutOfRange)
	}
	// The time is that of the guest when it happened; numbers are given by add, under the lock, so
	// that order and number agree.
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

// add gives a channel to wait for where there is no room. The channel is taken under the same lock
// as the check: a change in between closes it.
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
// for the first. The host calls it again with the last number that it has stored. Nothing is
// forgotten by sending: an answer that is lost is sent again.
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
		// No event within the wait is an empty answer and no error: the host asks again at once.
		case <-timer.C:
			return nil, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// take forgets and copies under one lock. A number that was never given is errdefs.ErrOutOfRange:
// host and guest do not speak of the same guest then.
func (q *Queue) take(after uint64) ([]*guestv1.Event, <-chan struct{}, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if after > q.last {
		return nil, nil, fmt.Errorf("events after %d of %d: %w", after, q.last, errdefs.ErrOutOfRange)
	}
	first := q.last - uint64(len(q.events)) // seq before the first kept
	if after > first {
		// Cleared, so that the array below the slice does not hold events that nobody needs.
		clear(q.events[:after-first])
		q.events = q.events[after-first:]
		// Who waits in Publish has room again.
		q.signal()
	}
	n := min(len(q.events), guestapi.MaxEvents)
	// A copy: the caller encodes it without the lock, while Publish appends.
	return append([]*guestv1.Event(nil), q.events[:n]...), q.changed, nil
}

// signal needs mu. A closed channel wakes all waiters, publishers and pollers alike.
func (q *Queue) signal() {
	close(q.changed)
	q.changed = make(chan struct{})
}
