// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"slices"

	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"

	"cloister/sandbox/network"
	"cloister/sandbox/statedir"
)

// claimNetwork writes down what is to be put right in the engine's namespace when
// the sandbox is gone, and takes the host side's part of the ports. A namespace
// of the sandbox's own goes with it.
func (s *Sandbox) claimNetwork() error {
	path := s.request.Workload.Namespaces.Network.Path
	if path == "" {
		return s.netns.KeepHostPorts()
	}
	identity, ports, err := s.netns.Identity()
	if err != nil {
		return err
	}
	e := statedir.Effect{Kind: statedir.KindLink, Path: path, Detail: identity + "\t" + ports}
	return s.do(e, func(*statedir.Effect) error { return s.netns.KeepHostPorts() },
		func(context.Context) error { return s.netns.Restore(ports) })
}

// follow tells the guest of every change of its network from here on, and of
// those since it was configured.
func (s *Sandbox) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.undo.Push("network watch", func(context.Context) error { cancel(); return nil })
	changed := func() error {
		s.network.Lock()
		defer s.network.Unlock()
		_, err := s.apply(ctx)
		return err
	}
	err := s.netns.Watch(ctx, func() {
		if err := changed(); err != nil && ctx.Err() == nil && s.guest.Err() == nil && !errors.Is(err, network.ErrEnded) {
			log.G(ctx).WithField("sandbox", s.request.ID).WithError(err).Warn("network of the sandbox")
		}
	})
	if err != nil {
		return err
	}
	return changed()
}

// forward carries connections to localhost of the namespace's host side into the
// guest. A host that cannot do it has no port-forward, and all the rest.
func (s *Sandbox) forward(ctx context.Context) {
	f, err := s.netns.Forward(ctx, func(ctx context.Context, port uint16) (network.Stream, error) {
		return s.guest.DialTCP(ctx, port)
	})
	if err != nil {
		log.G(ctx).WithField("sandbox", s.request.ID).WithError(err).Warn("port-forward will not reach the guest")
		return
	}
	s.undo.Push("forwarder", func(context.Context) error { return f.Close() })
}

// SyncNetwork gives the guest the network that the namespace has now. What a guest cannot have is an error until a container has been started, as it
// was before there was a guest; from then on all the rest reaches the guest, and the log says what does not.
func (s *Sandbox) SyncNetwork(ctx context.Context) error {
	s.network.Lock()
	defer s.network.Unlock()
	left, err := s.apply(ctx)
	if !s.settled {
		err = errors.Join(append(left, err)...)
		s.settled = err == nil
	}
	return err
}

// apply gives the guest what has changed of its network, and returns what it cannot have. The caller holds network.
func (s *Sandbox) apply(ctx context.Context) (left []error, err error) {
	wanted, left, err := s.netns.Sync()
	if err != nil {
		return nil, err
	}
	if s.settled {
		s.warn(ctx, left)
	}
	if proto.Equal(wanted, s.told) {
		return left, nil
	}
	if _, err = s.guest.Guest().ApplyNetwork(ctx, wanted); err != nil {
		return left, s.Explain(err)
	}
	s.told = wanted
	return left, nil
}

// warn logs what the guest goes without, each thing once for as long as it stays so.
func (s *Sandbox) warn(ctx context.Context, left []error) {
	var missing []string
	for _, err := range left {
		missing = append(missing, err.Error())
		if !slices.Contains(s.missing, err.Error()) {
			log.G(ctx).WithField("sandbox", s.request.ID).WithError(err).Warn("a running guest goes without a part of its network; the rest reaches it")
		}
	}
	s.missing = missing
}
