// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strconv"

	"cloister/labels/lsm"
	"cloister/sandbox/confine"
	"cloister/sandbox/hypervisor"
	"cloister/sandbox/statedir"
	"cloister/vmm"
)

// confinement is what the driver is told of the sandbox.
func (s *Sandbox) confinement(accel vmm.Accel, programs lsm.Programs) confine.Options {
	return confine.Options{
		Config: s.config.Labels, Root: s.config.Root, Sandbox: s.request.Namespace + "/" + s.request.ID, Tenant: tenant(s.request),
		Annotations: s.request.Workload.Settings.Labels, Engine: s.request.Workload.Labels,
		KVM: accel == vmm.AccelKVM, Programs: programs,
	}
}

// tenant is who a sandbox's kept files belong to: the pods of one Kubernetes namespace, or else all sandboxes of one namespace
// of the engine.
func tenant(req Request) string {
	return path.Join(req.Namespace, req.Workload.PodNamespace)
}

// programs are the files that will be started, as the kernel will see them.
func programs(m Machine) (p lsm.Programs, err error) {
	if p.QEMU, err = resolve(m.QEMU, "qemu-system-x86_64"); err != nil {
		return p, err
	}
	p.Virtiofsd, err = resolve(m.Virtiofsd, "virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
	return p, err
}

func resolve(configured string, places ...string) (string, error) {
	if configured != "" {
		places = []string{configured}
	}
	for _, name := range places {
		path, err := exec.LookPath(name)
		if err == nil {
			return filepath.EvalSymlinks(path)
		}
		if errors.Is(err, fs.ErrPermission) {
			return "", fmt.Errorf("%w: it has no execute permission: chmod 755, or set another path under [machine] in the config", err)
		}
	}
	return "", fmt.Errorf("%s: not found: install it, or set its path under [machine] in the config: %w", places[0], os.ErrNotExist)
}

// reserve gives the sandbox its identity on this host.
func (s *Sandbox) reserve(ctx context.Context, p *starting) error {
	owner := s.request.Namespace + "/" + s.request.ID
	err := s.do(statedir.Effect{Kind: statedir.KindReservation, Detail: owner}, func(*statedir.Effect) (err error) {
		s.identity, err = s.confine.Reserve(ctx)
		return err
	}, s.confine.Release)
	if err != nil {
		return err
	}
	if p.owner, err = s.config.Jail.Owner(s.identity.Rank, p.machine.Accel == vmm.AccelKVM); err != nil {
		return err
	}
	if err := hypervisor.Reachable(p.owner, p.programs.QEMU, p.machine); err != nil {
		return err
	}
	s.notes.set("uid", strconv.FormatUint(uint64(p.owner.ID), 10))
	s.notes.set("level", s.identity.Level.String())
	if !s.identity.Label.IsZero() {
		s.notes.set("label", s.identity.Label.String())
	}
	return nil
}
