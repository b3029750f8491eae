// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"cloister/oci"
	"cloister/sandbox/plan"
)

// content labels what the first container brings before the machine is started: what
// cannot be labelled is refused before a guest has run an instruction. Add finds it
// done; what a pod's later containers bring is labelled there.
func (s *Sandbox) content(ctx context.Context) error {
	if s.request.Workload.Role == oci.Sandbox {
		return nil // a pause container stays on the host
	}
	c := s.first()
	if s.identity.labels() {
		if err := s.rootfsContent(ctx, c); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rootfs: %w", err)
		}
	}
	for _, m := range c.Workload.Mounts {
		if m.Kind != oci.BindMount || m.Purpose.Copied() || m.Purpose == oci.SharedMemory {
			continue
		}
		source := c.absolute(m.Source)
		if isSocket(source) {
			continue // the guest has one of its own
		}
		v, err := volume(s.config.Labels, m, source, source)
		if err == nil {
			err = s.identity.admit(ctx, v)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // gone meanwhile: Add says so
			return fmt.Errorf("mount %q: %w", m.Destination, err)
		}
	}
	return nil
}

// first is the container that the sandbox is started for.
func (s *Sandbox) first() Container {
	return Container{ID: s.request.ID, Bundle: s.request.Bundle, Workload: s.request.Workload, Rootfs: s.request.Rootfs}
}

func (s *Sandbox) rootfsContent(ctx context.Context, c Container) error {
	rootfs, err := plan.NewRootfs(c.Rootfs, blockDevices(c.Rootfs))
	if err != nil {
		return err
	}
	for _, d := range rootfs.Disks {
		if err := s.prepareDisk(ctx, d); err != nil {
			return err
		}
	}
	if source := c.rootfsSource(rootfs.Host); len(rootfs.Disks) == 0 && source != "" {
		return s.identity.admit(ctx, served{shown: source, source: source})
	}
	return nil
}

// prepareDisk makes a disk's file system, if that is still to be done, and labels it.
func (s *Sandbox) prepareDisk(ctx context.Context, d plan.Disk) error {
	if d.MkfsBytes > 0 {
		if err := makeFileSystem(ctx, d); err != nil {
			return err
		}
	}
	return s.identity.disk(ctx, d)
}
