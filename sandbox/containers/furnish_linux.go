// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"cloister/oci"
	"cloister/sandbox/content"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/plan"
)

// furnish makes on the host what a container's plan says, and gives what the guest is to do.
// Nothing is decided here: what a mount becomes is in the plan. Each step pushes its undo to r at
// once, and the caller runs them on an error.
func (s *Set) furnish(ctx context.Context, r *resident, a *Planned) (*guestv1.PrepareContainerRequest, error) {
	luns, err := s.addRootfs(ctx, r, a)
	if err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	req := &guestv1.PrepareContainerRequest{Id: a.ID, Mounts: rootfsSteps(a.Container, luns)}
	guest := s.guestOf(a)
	for _, v := range a.Volumes {
		use, err := s.addVolume(ctx, r, a, v)
		if err != nil {
			return nil, fmt.Errorf("mount %q: %w", v.Destination, err)
		}
		guest.Volumes[v.Mount] = use.Name
		req.Volumes = append(req.Volumes, use.Name)
		if v.Watched {
			req.Mounts = append(req.Mounts, watchedStep(v, use.Name))
			s.watchVolume(ctx, r, a.ID, v, use)
		}
	}
	for _, socket := range a.Sockets {
		req.Mounts = append(req.Mounts, socketStep(socket))
	}
	if err := s.addCopies(ctx, r, a, req); err != nil {
		return nil, err
	}
	// Last, since the spec needs what all steps before have found: names of volumes and numbers of
	// disks.
	if guest.Numbers, err = s.addDevices(ctx, r, a); err != nil {
		return nil, err
	}
	req.Spec, err = a.Spec(guest)
	return req, err
}

// guestOf is what the container's spec needs to know of this guest. First is true for the container
// that names the sandbox, and only before any other is there: it decides what the pod's namespaces
// begin with.
func (s *Set) guestOf(a *Planned) plan.Guest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return plan.Guest{
		Pid: s.config.VM.Machine.Pid(), Namespaces: s.config.Workload.Namespaces,
		MemoryMax: s.config.Memory, Hostname: s.config.Hostname,
		First: a.ID == s.config.ID && len(s.containers) == 0, Volumes: map[int]string{}, Joins: a.source.Joins,
	}
}

// addRootfs makes the root file system reachable for the guest: in the share, or on disks, whose
// LUNs it gives. Disks and a share never serve one root file system together.
func (s *Set) addRootfs(ctx context.Context, r *resident, a *Planned) (luns []int, err error) {
	if len(a.Rootfs.Disks) == 0 {
		return nil, s.shareRootfs(ctx, r, a)
	}
	for _, d := range a.Rootfs.Disks {
		lun, err := s.addDisk(ctx, r, d)
		if err != nil {
			return nil, err
		}
		luns = append(luns, lun)
	}
	return luns, nil
}

// shareRootfs mounts the root file system in the share and has the driver look at it there. For a
// bound one the engine's folder is what is labelled; where a mount makes it, the mounted top is all
// there is.
func (s *Set) shareRootfs(ctx context.Context, r *resident, a *Planned) error {
	top, err := s.config.Share.MountRootfs(a.ID, a.Rootfs, a.files, s.config.Rootfs)
	if err != nil {
		return err
	}
	r.undo.Push("root file system", func(context.Context) error { return top.Close() })
	source := a.files.Rootfs()
	if source == nil {
		source = top
	}
	if err := admitFolder(ctx, s.config.Driver, source, top, plan.Treatment{}); err != nil {
		return err
	}
	// Engines that copy files by /proc/PID/root do so for a container of its own. A pod's
	// containers have one pid between them, and no root could be the right one.
	if w := a.source.Workload; w.Role == oci.Single {
		r.rootfs, r.readOnly = top, w.Rootfs.ReadOnly
		r.undo.Push("files of the machine's process", func(context.Context) error { return s.showFiles(nil) })
		return s.showFiles(r)
	}
	return nil
}

// addVolume shows a volume to the guest, labelled as it is to be. It is admitted after it is
// mounted, so that a driver that looks at the file server's side (Shown) finds the mount. The guest
// does not know its name yet.
func (s *Set) addVolume(ctx context.Context, r *resident, a *Planned, v plan.Volume) (*content.Use, error) {
	use, err := s.volumes.Add(v, a.files)
	if err != nil {
		return nil, err
	}
	r.undo.Push("volume "+v.Destination, func(context.Context) error { return use.Release() })
	return use, admitFolder(ctx, s.config.Driver, a.files.Source(v.Mount), use.Top, v.Treatment)
}

// showFiles makes the files of a container QEMU's root directory, where engines look for them,
// while it is the only container: all containers have QEMU's pid. coming is one that is not added
// yet, or nil. A second container takes QEMU's root away from the first, and gives it back when it
// goes.
func (s *Set) showFiles(coming *resident) error {
	// Held over the replacement: two that come at once would leave the root of whoever was slower.
	s.showing.Lock()
	defer s.showing.Unlock()
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()
	if coming != nil {
		all = append(all, coming)
	}
	if len(all) == 1 && all[0].rootfs != nil {
		return s.config.VM.Show(all[0].rootfs, all[0].readOnly)
	}
	empty, err := s.config.Share.Empty()
	if err != nil {
		return err
	}
	defer empty.Close() // O_PATH
	return s.config.VM.Show(empty, true)
}
