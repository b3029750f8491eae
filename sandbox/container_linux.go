// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/oci"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/plan"
	"cloister/sandbox/statedir"
)

// maxCopied bounds a file that is copied into the guest instead of shared.
const maxCopied = 1 << 20

// guestShare is where the guest mounts the share: sandbox/guestapi's contract.
const guestShare = "/run/cloister/share"

// guestBundles is where the guest keeps containers: sandbox/guestapi's contract.
const guestBundles = "/run/cloister/c"

// guestNamespaces has the namespaces that a pod's containers share.
const guestNamespaces = "/run/cloister/ns"

// Container is a container to be put into the sandbox.
type Container struct {
	ID       string
	Bundle   string
	Workload *oci.Workload
	Rootfs   []Mount // as the engine sent them; none: root.path is mounted already
}

// resident is a container's part of the sandbox.
type resident struct {
	undo     undo
	rootfs   string // what the machine's process may show; empty for none
	readOnly bool

	mu     sync.Mutex
	copied []copied // guarded by mu
}

// Add makes a container's files visible in the guest and gives the guest's
// bundle. On an error nothing of it is left.
func (s *Sandbox) Add(ctx context.Context, c Container) (bundle string, err error) {
	r := &resident{undo: undo{trace: s.config.Trace}}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.undo.run(ctx))
		}
	}()
	if err := checkSources(c, s.config.Workloads); err != nil {
		return "", err
	}
	if err := s.sharePID(ctx, c.Workload); err != nil {
		return "", err
	}
	req := &guestv1.PrepareContainerRequest{Id: c.ID}
	done := s.Phase(ctx, "rootfs")
	defer done()
	id, err := statedir.ParseID(c.ID)
	if err != nil {
		return "", err
	}
	shared := s.dir.Container(id)
	if err := os.Mkdir(shared, 0o711); err != nil {
		return "", err
	}
	r.undo.push("container's share", func(context.Context) error {
		return errors.Join(unmountBelow(shared), removeTree(shared))
	})
	if req.Mounts, err = s.addRootfs(ctx, r, c, shared); err != nil {
		return "", err
	}
	input := s.guestInput(c)
	if err := s.addMounts(ctx, c, shared, &input, req); err != nil {
		return "", err
	}
	if err := s.addDevices(ctx, r, c, &input); err != nil {
		return "", err
	}
	if req.Spec, err = c.Workload.GuestSpec(input); err != nil {
		return "", err
	}
	resp, err := s.guest.Guest().PrepareContainer(context.WithoutCancel(ctx), req) // nobody would know what the guest has
	if err != nil {
		return "", s.Explain(err)
	}
	r.undo.push("container in the guest", func(ctx context.Context) error { return s.forget(ctx, c.ID) })
	s.serveSockets(ctx, r, c, req.GetMounts())
	s.watchVolumes(ctx, r, c, shared)
	if r.copied, err = s.keepCopies(ctx, c, req); err != nil {
		return "", err
	}
	s.mu.Lock()
	s.containers[c.ID] = r
	s.mu.Unlock()
	return resp.GetBundle(), nil
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
	return r.undo.run(ctx)
}

// removeRest takes out what containers are left when the machine has ended, and waits for those that are just being taken out: the
// sandbox's folder has their mounts.
func (s *Sandbox) removeRest(ctx context.Context) error {
	s.mu.Lock()
	left := slices.Collect(maps.Keys(s.containers))
	s.mu.Unlock()
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
func (s *Sandbox) sharePID(ctx context.Context, w *oci.Workload) error {
	if w.Role != oci.Member || !w.Namespaces.PID.Shared() {
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

// addRootfs makes the root file system reachable and says what the guest mounts.
func (s *Sandbox) addRootfs(ctx context.Context, r *resident, c Container, shared string) ([]*guestv1.MountStep, error) {
	rootfs, err := plan.NewRootfs(c.Rootfs, blockDevices(c.Rootfs))
	if err != nil {
		return nil, err
	}
	if len(rootfs.Disks) == 0 {
		target := filepath.Join(shared, "rootfs")
		source, err := s.shareRootfs(c, rootfs.Host, target)
		if err != nil {
			return nil, err
		}
		if err := s.identity.admit(ctx, served{shown: target, source: source}); err != nil {
			return nil, fmt.Errorf("rootfs: %w", err)
		}
		if err := s.showRootfs(r, c.Workload, target); err != nil {
			return nil, fmt.Errorf("rootfs: %w", err)
		}
		return []*guestv1.MountStep{{Type: "bind", Source: "share:" + c.ID + "/rootfs", Target: "rootfs"}}, nil
	}
	luns := make([]string, len(rootfs.Disks))
	for i, d := range rootfs.Disks {
		lun, err := s.addDisk(ctx, r, d)
		if err != nil {
			return nil, fmt.Errorf("rootfs: %w", err)
		}
		luns[i] = "lun:" + strconv.Itoa(lun)
	}
	var steps []*guestv1.MountStep
	for _, m := range rootfs.Guest {
		if n, ok := strings.CutPrefix(m.Source, "disk:"); ok {
			i, err := strconv.Atoi(n)
			if err != nil {
				return nil, err
			}
			m.Source = luns[i]
		} else if m.Type == "bind" {
			m.Source = "ctr:" + m.Source
		}
		steps = append(steps, &guestv1.MountStep{Type: m.Type, Source: m.Source, Target: m.Target, Options: m.Options})
	}
	return steps, nil
}

// shareRootfs mounts what the engine asked for, or shows what it mounted itself.
func (s *Sandbox) shareRootfs(c Container, mounts []Mount, target string) (source string, err error) {
	if len(mounts) > 0 {
		if err := os.Mkdir(target, 0o755); err != nil {
			return "", err
		}
		return cmp.Or(c.rootfsSource(mounts), target), mountRootfs(mounts, target, s.dir.String(), s.identity.chosen.Rootfs)
	}
	source = c.rootfsSource(nil)
	if info, err := os.Stat(source); err != nil || !info.IsDir() {
		return "", fmt.Errorf("root.path %q: no rootfs mounts were given and there is no folder there: %w", source, errdefs.ErrNotFound)
	}
	return source, bindMount(source, target, bindFlags{recursive: true})
}

// rootfsSource is what the root file system's files are on the host: what is bound, or
// what the engine mounted; empty when the mount makes it, with a label of its own.
func (c Container) rootfsSource(mounts []Mount) string {
	if len(mounts) == 0 {
		return c.absolute(c.Workload.Rootfs.Path)
	}
	if top := mounts[len(mounts)-1]; top.Target == "" && isBind(top) {
		return top.Source
	}
	return ""
}

// absolute is a path of the configuration.
func (c Container) absolute(name string) string {
	if filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(c.Bundle, name)
}

// guestInput is what the host's side adds to the guest's spec.
func (s *Sandbox) guestInput(c Container) oci.GuestInput {
	in := oci.GuestInput{
		ID: c.ID, Sources: map[int]string{}, Below: map[int]bool{}, MemoryMax: s.size.ContainerMemory,
		SandboxPid: s.Pid(), SandboxNetwork: s.request.Workload.Namespaces.Network.Path,
	}
	if in.IDs = s.request.Workload.Namespaces.IDs; !in.IDs.IsZero() {
		in.User = guestNamespaces + "/user"
	}
	if c.Workload.Role == oci.Member {
		in.IPC, in.UTS, in.PID = guestNamespaces+"/ipc", guestNamespaces+"/uts", guestNamespaces+"/pid"
	}
	if len(c.Workload.Sysctls.Network) > 0 && !s.alone(c) {
		in.Network = guestNamespaces + "/net" // the first one's were set with the guest; the guest's runtime sets further ones there
	}
	return in
}

// alone is true for the container that the machine was made for, while no other has joined it.
func (s *Sandbox) alone(c Container) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return c.ID == s.request.ID && len(s.containers) == 0
}

// addMounts shares, or copies, what the spec binds from the host.
func (s *Sandbox) addMounts(ctx context.Context, c Container, shared string, in *oci.GuestInput, req *guestv1.PrepareContainerRequest) error {
	for i, m := range c.Workload.Mounts {
		if m.Kind != oci.BindMount {
			continue
		}
		n := strconv.Itoa(i)
		source := c.absolute(m.Source)
		switch {
		case m.Purpose.Copied():
			data, err := readBounded(source)
			if err != nil {
				return fmt.Errorf("mount %q: %w", m.Destination, err)
			}
			req.Files = append(req.Files, &guestv1.File{Path: "files/" + n, Mode: 0o644, Data: data})
			in.Sources[i] = path.Join(guestBundles, c.ID, "files", n)
		case m.Purpose == oci.SharedMemory:
			in.Sources[i] = "/dev/shm"
		case isSocket(source):
			step, err := socketStep(source, n, m.IDs)
			if err != nil {
				return fmt.Errorf("mount %q: %w", m.Destination, err)
			}
			req.Mounts = append(req.Mounts, step)
			in.Sources[i] = path.Join(guestBundles, c.ID, step.GetTarget())
		default:
			if err := s.addVolume(ctx, c, i, shared, in, req); err != nil {
				return fmt.Errorf("mount %q: %w", m.Destination, err)
			}
		}
	}
	return nil
}

// addVolume shows mount i to the guest.
func (s *Sandbox) addVolume(ctx context.Context, c Container, i int, shared string, in *oci.GuestInput, req *guestv1.PrepareContainerRequest) error {
	m, n := c.Workload.Mounts[i], strconv.Itoa(i)
	source, shown := c.absolute(m.Source), filepath.Join(shared, "m", n)
	if err := s.shareVolume(ctx, m, source, shown); err != nil {
		return err
	}
	rel := path.Join(c.ID, "m", n)
	in.Sources[i] = path.Join(guestShare, rel)
	if s.watched(m, source) {
		req.Mounts = append(req.Mounts, &guestv1.MountStep{Type: "bind", Source: "share:" + rel, Target: watchedTarget(i)})
		in.Sources[i] = path.Join(guestBundles, c.ID, watchedTarget(i))
	}
	if !m.ReadOnly {
		return nil
	}
	below, err := mountsBelow(shown)
	in.Below[i] = below
	return err
}

// shareVolume shows a volume to the guest, labelled as it is to be.
func (s *Sandbox) shareVolume(ctx context.Context, m oci.Mount, source, shown string) error {
	v, err := volume(s.config.Labels, m, shown, source)
	if err != nil {
		return err
	}
	ids, err := openUserNamespace(m.IDs)
	if err != nil {
		return err
	}
	defer ids.Close() // of none: an error that nobody reads
	if err := bindMount(source, shown, bindFlags{
		recursive: m.Recursive, readOnly: m.ReadOnly, allOfIt: m.RecursiveRO, follow: m.Follows(), owners: ids, ownersBelow: m.MapsBelow,
	}); err != nil {
		return err
	}
	return s.identity.admit(ctx, v)
}

func readBounded(name string) ([]byte, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxCopied+1))
	if err == nil && len(data) > maxCopied {
		err = fmt.Errorf("%q is over %d bytes: %w", name, maxCopied, errdefs.ErrInvalidArgument)
	}
	return data, err
}

func blockDevices(mounts []Mount) map[string]bool {
	out := map[string]bool{}
	for _, m := range mounts {
		var st unix.Stat_t
		if unix.Stat(m.Source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			out[m.Source] = true
		}
	}
	return out
}
