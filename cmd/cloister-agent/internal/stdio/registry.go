// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"

	"cloister/sandbox/guestapi"
)

// arrival is how long a call waits for a stream that it names. The host sends
// the stream first, on the same channel. Longer means that the stream was lost, as after a host's
// end that was cut short.
const arrival = 10 * time.Second

// Registry holds the streams that no call has named yet. It is safe for concurrent use.
type Registry struct {
	uid, gid int // who owns pipes

	mu      sync.Mutex
	streams map[guestapi.Token]*yamux.Stream
	changed chan struct{} // closed and replaced at each Put
}

// NewRegistry is an empty registry. Pipes are to belong to the containers' root: the runtime hands
// them on to who uses them, who may open them by /dev/stdout.
func NewRegistry(uid, gid int) *Registry {
	return &Registry{uid: uid, gid: gid, streams: map[guestapi.Token]*yamux.Stream{}, changed: make(chan struct{})}
}

// Put hands in a stream. One that comes twice replaces the first.
func (r *Registry) Put(token guestapi.Token, s *yamux.Stream) {
	r.mu.Lock()
	old := r.streams[token]
	r.streams[token] = s
	close(r.changed)
	r.changed = make(chan struct{})
	r.mu.Unlock()
	if old != nil {
		_ = old.Close()
	}
}

// Take gives the stream of a token, once. A stream that does not come within the limit, or before
// ctx ends, is errdefs.ErrNotFound. Whoever takes a stream closes it.
func (r *Registry) Take(ctx context.Context, token guestapi.Token) (*yamux.Stream, error) {
	ctx, cancel := context.WithTimeout(ctx, arrival)
	defer cancel()
	for {
		s, changed := r.take(token)
		if s != nil {
			return s, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil, fmt.Errorf("stream %s was not opened: %w", token, errdefs.ErrNotFound)
		}
	}
}

// take removes what it gives: a token is good for one use. The channel is read under the same lock,
// so no Put is missed.
func (r *Registry) take(token guestapi.Token) (*yamux.Stream, <-chan struct{}) {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.streams[token]
	delete(r.streams, token)
	return s, r.changed
}
