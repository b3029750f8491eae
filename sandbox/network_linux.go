// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"

	"github.com/containerd/log"

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
