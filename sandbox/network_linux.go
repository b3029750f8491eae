// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"strings"

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

// releaseNetwork puts right what a dead shim left in an engine's namespace.
func releaseNetwork(_ context.Context, e statedir.Effect) error {
	identity, ports, _ := strings.Cut(e.Detail, "\t")
	return network.RestoreAt(e.Path, identity, ports)
}

// follow tells the guest of every change of its network from here on, and of
// those since it was configured.
func (s *Sandbox) follow(ctx context.Context) error {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s.undo.push("network watch", func(context.Context) error { cancel(); return nil })
	err := s.netns.Watch(ctx, func() {
		if err := s.SyncNetwork(ctx); err != nil && ctx.Err() == nil {
			log.G(ctx).WithError(err).Warn("network of the sandbox")
		}
	})
	if err != nil {
		return err
	}
	return s.SyncNetwork(ctx)
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
	s.undo.push("forwarder", func(context.Context) error { return f.Close() })
}

// SyncNetwork gives the guest the network that the namespace has now.
func (s *Sandbox) SyncNetwork(ctx context.Context) error {
	s.network.Lock()
	defer s.network.Unlock()
	wanted, err := s.netns.Sync()
	if err != nil || proto.Equal(wanted, s.told) {
		return err
	}
	if _, err = s.guest.Guest().ApplyNetwork(ctx, wanted); err != nil {
		return s.Explain(err)
	}
	s.told = wanted
	return nil
}
