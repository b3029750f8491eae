// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"sync"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/content"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/plan"
	"cloister/sandbox/statedir"
	"cloister/sandbox/undo"
)

// Container is a container to be put into the sandbox.
type Container = content.Container

// resident is a container's part of the sandbox.
type resident struct {
	undo     undo.Stack
	rootfs   *os.File // top of the root file system that the machine's process may show; nil for none
	readOnly bool

	mu     sync.Mutex
	copied []*content.Copied // guarded by mu
}

// arrival is a container that is planned, with the files that its plan speaks of.
type arrival struct {
	plan.Container
	source Container
	files  *content.Files
}

// arrive opens what a container's configuration names and plans the container. Nothing is changed on the host.
func (s *Sandbox) arrive(c Container) (_ *arrival, err error) {
	if _, err := statedir.ParseID(c.ID); err != nil {
		return nil, err
	}
	rules, err := content.Rules(s.config.Workloads.Sockets, s.config.Workloads.Watch, rules(s.config.Labels))
	if err != nil {
		return nil, err
	}
	a := &arrival{source: c}
	defer func() {
		if err != nil {
			a.files.Close()
		}
	}()
	var found []plan.Source
	if a.files, found, err = content.Open(c); err != nil {
		return nil, err
	}
	nodes, nodesErr := content.Nodes(c.Workload)
	a.Container, err = plan.NewContainer(plan.Request{
		ID: c.ID, Workload: c.Workload, Rootfs: c.Rootfs, Blocks: content.BlockDevices(c.Rootfs),
		Sources: found, Nodes: nodes, Tokens: tokens(len(found)), Rules: rules,
	})
	if err := errors.Join(err, nodesErr, content.MappableRootfs(c.Rootfs)); err != nil {
		return nil, err
	}
	if a.Pause {
		return a, nil
	}
	return a, a.files.OpenRootfs(c, a.Rootfs)
}

// admit has every file that is shared with the guest carry a label that the guest's helpers may use, or refuses it.
func (s *Sandbox) admit(ctx context.Context, a *arrival) error {
	if a.Pause {
		return nil // a pause container stays on the host
	}
	for _, d := range a.Rootfs.Disks {
		if err := s.prepareDisk(ctx, d); err != nil {
			return fmt.Errorf("rootfs: %w", err)
		}
	}
	if f := a.files.Rootfs(); f != nil {
		if err := s.admitFolder(ctx, f, f, plan.Treatment{}); err != nil {
			return fmt.Errorf("rootfs: %w", err)
		}
	}
	for _, v := range a.Volumes {
		if f := a.files.Source(v.Mount); f != nil {
			if err := s.admitFolder(ctx, f, f, v.Treatment); err != nil {
				return fmt.Errorf("mount %q: %w", v.Destination, err)
			}
		}
	}
	return s.admitCopies(ctx, a)
}

// admitCopies admits the files that the guest gets a copy of. A label that the engine gave the container's mounts fits
// as well as none: the file is only read, by the shim.
func (s *Sandbox) admitCopies(ctx context.Context, a *arrival) error {
	var label labels.Label
	if text := a.source.Workload.Labels.Mount; text != "" && len(a.Copies) > 0 {
		var err error
		if label, err = labels.Parse(text); err != nil {
			return fmt.Errorf("linux.mountLabel: %w", err)
		}
	}
	for _, c := range a.Copies {
		if err := s.confine.Admit(ctx, confine.File{Kind: confine.Copy, Host: a.files.Source(c.Mount), Label: label}); err != nil {
			return fmt.Errorf("mount %q: %w", c.Destination, err)
		}
	}
	return nil
}

// prepareDisk makes a disk's file system, if that is still to be done, and labels it.
func (s *Sandbox) prepareDisk(ctx context.Context, d plan.Disk) error {
	if d.MkfsBytes > 0 {
		if err := content.MakeFileSystem(ctx, d); err != nil {
			return err
		}
	}
	f, err := os.OpenFile(d.Path, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer f.Close() // O_PATH
	return s.confine.Admit(ctx, confine.File{Kind: confine.Disk, Host: f, ReadOnly: d.ReadOnly, New: d.MkfsBytes > 0})
}

// Add makes a container's files visible in the guest and gives the guest's bundle. On an error nothing of it is left.
func (s *Sandbox) Add(ctx context.Context, c Container) (bundle string, err error) {
	r := &resident{undo: undo.Stack{Trace: s.config.Trace}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.undo.Run(ctx))
		}
	}()
	a, err := s.takeFirst(ctx, c)
	if err != nil {
		return "", err
	}
	defer a.files.Close()
	if err := s.sharePID(ctx, c); err != nil {
		return "", err
	}
	defer s.Phase(ctx, "rootfs")()
	if err := s.share.AddContainer(c.ID); err != nil {
		return "", err
	}
	r.undo.Push("container's share", func(context.Context) error { return s.share.RemoveContainer(c.ID) })
	req, err := s.furnish(ctx, r, a)
	if err != nil {
		return "", err
	}
	resp, err := s.guest.Guest().PrepareContainer(context.WithoutCancel(ctx), req) // nobody would know what the guest has
	if err != nil {
		return "", s.Explain(err)
	}
	r.undo.Push("container in the guest", func(ctx context.Context) error { return s.forget(ctx, c.ID) })
	s.serveSockets(ctx, r, a)
	for _, f := range r.copied {
		if err := s.serveNames(ctx, f); err != nil {
			return "", err
		}
	}
	s.mu.Lock()
	s.containers[c.ID] = r
	s.mu.Unlock()
	return resp.GetBundle(), nil
}

// takeFirst gives the container that the sandbox was started for, which is planned and admitted, or plans and admits
// another.
func (s *Sandbox) takeFirst(ctx context.Context, c Container) (*arrival, error) {
	s.mu.Lock()
	first := s.first
	if first != nil && first.ID == c.ID {
		s.first = nil
	} else {
		first = nil
	}
	s.mu.Unlock()
	if first != nil {
		return first, nil
	}
	a, err := s.arrive(c)
	if err != nil {
		return nil, err
	}
	if err := s.admit(ctx, a); err != nil {
		a.files.Close()
		return nil, err
	}
	return a, nil
}

// dropFirst lets go of the files of a first container that was never added.
func (s *Sandbox) dropFirst() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.first != nil {
		s.first.files.Close()
		s.first = nil
	}
}

// furnish makes on the host what a container's plan says, and gives what the guest is to do.
func (s *Sandbox) furnish(ctx context.Context, r *resident, a *arrival) (*guestv1.PrepareContainerRequest, error) {
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
	if guest.Numbers, err = s.addDevices(ctx, r, a); err != nil {
		return nil, err
	}
	req.Spec, err = a.Spec(guest)
	return req, err
}

// guestOf is what the container's spec needs to know of this guest.
func (s *Sandbox) guestOf(a *arrival) plan.Guest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return plan.Guest{
		Pid: s.Pid(), Network: s.request.Workload.Namespaces.Network.Path, IDs: s.request.Workload.Namespaces.IDs,
		MemoryMax: s.size.ContainerMemory, First: a.ID == s.request.ID && len(s.containers) == 0, Volumes: map[int]string{}, Joins: a.source.Joins,
	}
}

// Remove takes a container's files out of the guest. The task must be gone.
func (s *Sandbox) Remove(ctx context.Context, id string) error {
	s.removing.RLock()
	defer s.removing.RUnlock()
	s.mu.Lock()
	r := s.containers[id]
	delete(s.containers, id)
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	defer s.Phase(ctx, "remove")()
	return r.undo.Run(ctx)
}

// removeRest takes out what containers are left when the machine has ended, and waits for those that are just being taken
// out: the sandbox's folder has their mounts.
func (s *Sandbox) removeRest(ctx context.Context) error {
	s.mu.Lock()
	left := slices.Collect(maps.Keys(s.containers))
	s.mu.Unlock()
	s.dropFirst()
	var errs []error
	for _, id := range left {
		errs = append(errs, s.Remove(ctx, id))
	}
	s.removing.Lock()
	defer s.removing.Unlock()
	return errors.Join(errs...)
}

// forget tells the guest, if there still is one.
func (s *Sandbox) forget(ctx context.Context, id string) error {
	select {
	case <-s.done:
		return nil
	default:
	}
	_, err := s.guest.Guest().RemoveContainer(ctx, &guestv1.RemoveContainerRequest{Id: id})
	return err
}

// sharePID has the guest start the process that a pod's shared pid namespace
// needs, when the first container comes that wants it.
func (s *Sandbox) sharePID(ctx context.Context, c Container) error {
	if c.Workload.Role != oci.Member || !c.Workload.Namespaces.PID.Shared() || c.Joins != 0 {
		return nil
	}
	s.pod.Lock()
	defer s.pod.Unlock()
	if s.pidShared {
		return nil
	}
	_, err := s.guest.Guest().PrepareSandbox(ctx, &guestv1.PrepareSandboxRequest{SharedPid: true})
	s.pidShared = err == nil
	return s.Explain(err)
}

// addRootfs makes the root file system reachable for the guest: in the share, or on disks, whose LUNs it gives.
func (s *Sandbox) addRootfs(ctx context.Context, r *resident, a *arrival) (luns []int, err error) {
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

func (s *Sandbox) shareRootfs(ctx context.Context, r *resident, a *arrival) error {
	top, err := s.share.MountRootfs(a.ID, a.Rootfs, a.files, s.identity.Files)
	if err != nil {
		return err
	}
	r.undo.Push("root file system", func(context.Context) error { return top.Close() })
	source := a.files.Rootfs()
	if source == nil {
		source = top
	}
	if err := s.admitFolder(ctx, source, top, plan.Treatment{}); err != nil {
		return err
	}
	if w := a.source.Workload; w.Role == oci.Single {
		r.rootfs, r.readOnly = top, w.Rootfs.ReadOnly
		r.undo.Push("files of the machine's process", func(context.Context) error { return s.showFiles(nil) })
		return s.showFiles(r)
	}
	return nil
}

// addVolume shows a volume to the guest, labelled as it is to be.
func (s *Sandbox) addVolume(ctx context.Context, r *resident, a *arrival, v plan.Volume) (*content.Use, error) {
	use, err := s.volumes.Add(v, a.files)
	if err != nil {
		return nil, err
	}
	r.undo.Push("volume "+v.Destination, func(context.Context) error { return use.Release() })
	return use, s.admitFolder(ctx, a.files.Source(v.Mount), use.Top, v.Treatment)
}

// addCopies reads the files that the container gets copies of, and follows them.
func (s *Sandbox) addCopies(ctx context.Context, r *resident, a *arrival, req *guestv1.PrepareContainerRequest) (err error) {
	copied, err := a.files.OpenCopies(a.Copies)
	if err != nil {
		return err
	}
	r.copied = copied
	r.undo.Push("copied files", func(context.Context) error {
		r.mu.Lock()
		defer r.mu.Unlock()
		s.changes.Forget(r.copied)
		r.copied = nil
		return nil
	})
	for _, c := range copied {
		req.Files = append(req.Files, fileOf(c))
	}
	if err := s.changes.Follow(copied); err != nil {
		log.G(ctx).WithError(err).WithField("id", a.ID).Warn("changes of the engine's files will not be seen")
	}
	return nil
}

// Refresh sends a container those of its copied files that the engine has changed since: Docker writes hosts and resolv.conf
// between Create and Start, and again when a network comes or goes.
func (s *Sandbox) Refresh(ctx context.Context, id string) error {
	s.mu.Lock()
	r := s.containers[id]
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	req := &guestv1.PrepareContainerRequest{Id: id}
	for _, c := range r.copied {
		changed, err := c.Refresh()
		if err != nil {
			log.G(ctx).WithError(err).WithField("id", id).Warn("a changed file of the engine's was refused")
		}
		if !changed {
			continue
		}
		req.Files = append(req.Files, fileOf(c))
		if err := s.serveNames(ctx, c); err != nil {
			return err
		}
	}
	if len(req.GetFiles()) == 0 {
		return nil
	}
	_, err := s.guest.Guest().PrepareContainer(ctx, req)
	return s.Explain(err)
}

// followFiles sends every container the files that the engine writes from here on. Without it they are as they were at the
// start, which most engines leave at that: a host that has no watch to give is no reason not to run.
func (s *Sandbox) followFiles(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	changes, err := content.NewChanges(func() { s.refreshAll(ctx) })
	if err != nil {
		log.G(ctx).WithError(err).Warn("changes of the engine's files will not be seen")
		return
	}
	s.changes = changes
	s.undo.Push("watch of files", func(context.Context) error { return changes.Close() })
}

// tokens are random names for the streams of sockets.
func tokens(n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = string(guestapi.NewToken())
	}
	return out
}
