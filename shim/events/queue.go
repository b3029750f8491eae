// SPDX-License-Identifier: Apache-2.0

package events

import (
	"slices"
	"sync"

	"github.com/containerd/containerd/api/types"
)

// maxQueue bounds the events kept for a containerd that is away: an envelope is below 1 KiB, so
// this is at most a few MiB.
const maxQueue = 4096

// queue is a bounded first-in first-out of events. Any goroutine pushes; one takes.
type queue struct {
	mu     sync.Mutex
	items  []*types.Envelope
	taken  int  // events at the front that the sender works on; they are not dropped
	closed bool // nothing comes any more
	wake   chan struct{}
}

func newQueue() *queue { return &queue{wake: make(chan struct{}, 1)} }

// push adds e and returns the event that had to go for it, if any; ok is false when the queue is
// closed.
func (q *queue) push(e *types.Envelope) (dropped *types.Envelope, ok bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, false
	}
	if len(q.items) >= maxQueue {
		// The front may be on its way: dropping it would have the sender remove another one.
		n := slices.IndexFunc(q.items[q.taken:], func(e *types.Envelope) bool { return mayDrop(e.GetTopic()) })
		n = max(n, 0) + q.taken
		dropped = q.items[n]
		q.items = slices.Delete(q.items, n, n+1)
	}
	q.items = append(q.items, e)
	q.signal()
	return dropped, true
}

// front returns the oldest event without removing it; nil when there is none.
func (q *queue) front() (e *types.Envelope, closed bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.items) == 0 {
		return nil, q.closed
	}
	q.taken = 1
	return q.items[0], q.closed
}

// pop removes what front returned.
func (q *queue) pop() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.items = slices.Delete(q.items, 0, 1)
	q.taken = 0
}

// close refuses what comes from now on; what is queued stays to be sent.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

func (q *queue) len() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.items)
}

// signal wakes the sender. One signal may stand for several events: the sender looks at the queue.
func (q *queue) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}
