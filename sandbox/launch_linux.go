// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/sandbox/confine"
	"cloister/sandbox/jail"
)

// jailOf is what a helper is started in: confined as its role says, in the sandbox's network namespace and
// cgroup, with the sandbox's mark in its environment.
func (s *Sandbox) jailOf(r confine.Role) jail.Jail {
	j := jail.ForQEMU(s.config.Jail, s.owner)
	if r == confine.FileServer {
		j = jail.ForVirtiofsd(s.config.Jail)
	}
	j.Label = func() (unset func(), err error) { return s.confine.Exec(r) }
	j.Network, j.Group, j.OOMScore, j.Env = s.netns.File(), s.cgroup, s.request.Workload.OOMScore(), []string{s.dir.Marker()}
	return j
}

// check reads back from the kernel how the helpers run. No instruction of the guest has been executed.
func (s *Sandbox) check(ctx context.Context) error {
	server := confine.Process{Role: confine.FileServer, PID: s.files.Pid(), Program: s.programs.Virtiofsd, Peers: []syscall.Conn{s.files.Socket()}}
	machine := confine.Process{Role: confine.Machine, PID: s.machine.Pid(), Program: s.programs.QEMU, Peers: s.machine.Sockets()}
	if err := s.confine.Verify(ctx, server, machine); err != nil {
		return err
	}
	for _, p := range []confine.Process{server, machine} {
		if err := s.jailOf(p.Role).Verify(p.PID); err != nil {
			return fmt.Errorf("%s: %w", p.Role, err)
		}
	}
	s.files.HandedOver() // its socket is read back, and QEMU's from now on
	s.facts["jail"] = s.config.Jail.String()
	return nil
}

// leaveHost takes the host's files from the machine's process before the guest runs.
func (s *Sandbox) leaveHost(ctx context.Context) error {
	err := s.encloseEmpty()
	if !errors.Is(err, unix.EINVAL) {
		return err
	}
	// pivot_root cannot replace the root of a host that runs from its initial ram disk.
	if s.config.Jail.Has(jail.RootDir) {
		return fmt.Errorf("QEMU would keep the host's root directory: %w: run the host from a mounted file system, or name %q in jail.disable", err, jail.RootDir)
	}
	log.G(ctx).WithError(err).Warn("QEMU keeps the host's root directory: do not copy files by its pid (nerdctl cp)")
	s.root = nil
	return nil
}
