// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"strconv"

	"github.com/containerd/log"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/hypervisor"
	"cloister/sandbox/network"
	"cloister/sandbox/plan"
	"cloister/sandbox/statedir"
	"cloister/vmm"
)

// reserve gives the sandbox its identity on this host: labels and QEMU's uid follow from the level.
func (s *Sandbox) reserve(ctx context.Context, p *starting) error {
	err := s.do(statedir.Effect{Kind: statedir.KindReservation, Detail: p.Identity.Name}, func(*statedir.Effect) (err error) {
		p.granted, err = s.confine.Reserve(ctx)
		return err
	}, s.confine.Release)
	if err != nil {
		return err
	}
	if p.owner, err = s.config.Jail.Owner(p.granted.Rank, p.Machine.Accel == vmm.AccelKVM); err != nil {
		return err
	}
	if err := hypervisor.Reachable(p.owner, p.programs.QEMU, p.Machine); err != nil {
		return err
	}
	s.notes.Set("uid", strconv.FormatUint(uint64(p.owner.ID), 10))
	for name, value := range p.granted.Facts() {
		s.notes.Set(name, value)
	}
	return nil
}

// enterCgroup makes the cgroup of QEMU and the file server, with its limits, before they start.
func (s *Sandbox) enterCgroup(p plan.Cgroup) (*cgroup.Group, error) {
	group, err := cgroup.At(p.Leaf)
	if err != nil {
		return nil, err
	}
	return group, s.do(statedir.Effect{Kind: statedir.KindCgroup, Path: group.String()}, func(*statedir.Effect) error {
		return group.Create(p.Limits)
	}, func(ctx context.Context) error { return group.Remove(ctx) })
}

// claimNetwork records what the cleanup has to restore in the engine's namespace, and takes the
// host side's part of the ports. A namespace that the shim made for the sandbox ends with it.
func (s *Sandbox) claimNetwork(path string) error {
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

// forward carries connections to localhost of the namespace's host side into the guest. A host that
// cannot do it has no port-forward, and all the rest.
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
