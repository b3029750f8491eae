// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"slices"
	"sync"

	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// Session keeps a guest's network equal to a namespace's. Its methods may be called at once. Before
// the first container has started, what the guest cannot have is an error of that start. A running
// guest loses nothing because of a link that came later.
type Session struct {
	ns    *Namespace
	apply func(context.Context, *guestv1.Network) error

	mu      sync.Mutex       // orders what the guest is told, and guards:
	told    *guestv1.Network // the last of it
	settled bool             // a container has been started
	missing []string         // what the log has said that the guest does not get
}

// NewSession reads the network that the guest is configured with. apply sends the guest a later
// one. A part of the network that a guest cannot have is an error. Links are redirected when it
// returns, and the guest has not been told yet: the network is a part of its first configuration.
func NewSession(ns *Namespace, apply func(context.Context, *guestv1.Network) error) (*Session, *guestv1.Network, error) {
	wanted, left, err := ns.Sync()
	if err := errors.Join(append(left, err)...); err != nil {
		return nil, nil, err
	}
	return &Session{ns: ns, apply: apply, told: wanted}, wanted, nil
}

// Follow sends the guest every change until ctx ends, and those since NewSession at once. Errors of
// later changes are logged, unless ended says that the guest is gone. It returns once it watches;
// the watch goes on until ctx ends.
func (s *Session) Follow(ctx context.Context, ended func() bool) error {
	changed := func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		_, err := s.update(ctx)
		return err
	}
	err := s.ns.Watch(ctx, func() {
		if err := changed(); err != nil && ctx.Err() == nil && !ended() && !errors.Is(err, ErrEnded) {
			log.G(ctx).WithError(err).Warn("update the network of the sandbox")
		}
	})
	if err != nil {
		return err
	}
	// The watch is there first: a change between NewSession and the subscription would be seen by
	// nobody.
	return changed()
}

// Sync gives the guest the network that the namespace has now. Until a container has been started,
// a part that the guest cannot have is an error. Later the rest reaches the guest, and the log says
// what does not. It is called before each start of a container: engines put links into the
// namespace between Create and Start, and the workload must find them.
func (s *Session) Sync(ctx context.Context) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	left, err := s.update(ctx)
	if !s.settled {
		err = errors.Join(append(left, err)...)
		s.settled = err == nil
	}
	return err
}

// update gives the guest what has changed, and returns what it cannot have. The caller holds mu.
func (s *Session) update(ctx context.Context) (left []error, err error) {
	wanted, left, err := s.ns.Sync()
	if err != nil {
		return nil, err
	}
	if s.settled {
		s.warn(ctx, left)
	}
	// Engines touch neighbours and counters often. An equal network is not sent again: each call
	// wakes the guest.
	if proto.Equal(wanted, s.told) {
		return left, nil
	}
	if err = s.apply(ctx, wanted); err != nil {
		return left, err
	}
	// After an error told stays what it was, and the next change sends the whole again.
	s.told = wanted
	return left, nil
}

// warn logs what the guest does not get, once for as long as it stays so. The caller holds mu.
func (s *Session) warn(ctx context.Context, left []error) {
	var missing []string
	for _, err := range left {
		missing = append(missing, err.Error())
		if !slices.Contains(s.missing, err.Error()) {
			log.G(ctx).WithError(err).Warn("part of its network does not reach the running guest; the rest does")
		}
	}
	s.missing = missing
}
