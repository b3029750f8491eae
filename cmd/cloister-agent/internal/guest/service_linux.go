// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/protobuf/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"cloister/cmd/cloister-agent/internal/boot"
	"cloister/cmd/cloister-agent/internal/containers"
	"cloister/cmd/cloister-agent/internal/events"
	"cloister/cmd/cloister-agent/internal/held"
	"cloister/cmd/cloister-agent/internal/home"
	"cloister/cmd/cloister-agent/internal/network"
	"cloister/cmd/cloister-agent/internal/pause"
	"cloister/cmd/cloister-agent/internal/reap"
	"cloister/cmd/cloister-agent/internal/sockets"
	"cloister/cmd/cloister-agent/internal/steps"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
)

const (
	bundleConfig = "config.json"
	folderMode   = 0o711
	rootfs       = "rootfs" // root.path of oci's GuestSpec
	configMode   = 0o600
	maxWait      = 5 * time.Minute
)

// Service is cloister.guest.v1.Guest. It is safe for concurrent use: mu orders changes of the whole
// guest, the table those of one container.
type Service struct {
	queue   *events.Queue
	table   *containers.Table
	monitor *reap.Monitor
	sockets *sockets.Registry
	volumes *containers.Volumes
	users   guestapi.UserNamespace // the containers'
	sent    sentFiles

	mu         sync.Mutex // one change of the guest at a time
	configured bool
	spare      *network.Spare // from Configure on
}

// New makes the service of a guest whose containers have that user namespace. The arguments are
// shared with the Task service; the caller keeps one of each for the guest.
func New(monitor *reap.Monitor, queue *events.Queue, table *containers.Table, open *sockets.Registry,
	users guestapi.UserNamespace,
) *Service {
	return &Service{monitor: monitor, queue: queue, table: table, sockets: open, volumes: containers.NewVolumes(), users: users}
}

// Configure makes the guest a sandbox's. It is called once, before anything else of this service.
// The order is by need: time and entropy come first, since whatever starts later uses them; the
// share comes last, since it can block on the host.
func (s *Service) Configure(_ context.Context, r *guestv1.ConfigureRequest) (*types.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.configured {
		return nil, fmt.Errorf("guest is configured: %w", errdefs.ErrFailedPrecondition)
	}
	// Set before the work: a Configure that failed half-way is not repeated, the host kills the
	// guest.
	s.configured = true
	if err := setTime(r.GetTimeUnixNano()); err != nil {
		return nil, err
	}
	if err := addEntropy(r.GetEntropy()); err != nil {
		return nil, err
	}
	if err := setHostname(r.GetHostname()); err != nil {
		return nil, err
	}
	if err := network.LoopbackUp(); err != nil {
		return nil, err
	}
	var err error
	// Every NIC that the host does not name goes into the spare namespace, so a workload without a
	// network finds loopback alone.
	if s.spare, err = network.NewSpare(); err != nil {
		return nil, err
	}
	// A workload's sysctls come after the engine's, as under runc, and may be about a link.
	sysctls := func() error { return setSysctls(r.GetSysctls(), s.users) }
	if err := s.spare.Apply(r.GetNetwork(), sysctls); err != nil {
		return nil, err
	}
	if err := mountShare(r.GetShareTag()); err != nil {
		return nil, err
	}
	return &types.Empty{}, s.keepInodes(r.GetShareInodes())
}

// SetTime sets the clock. The host calls it after Configure, which may take long, and when a frozen
// container goes on.
func (s *Service) SetTime(_ context.Context, r *guestv1.SetTimeRequest) (*types.Empty, error) {
	return &types.Empty{}, setTime(r.GetTimeUnixNano())
}

// ApplyNetwork changes the network. It may be called at any time after Configure, with the whole
// network as it is to be and not with a difference. The workload's sysctls are not set again: what
// it has changed itself stays.
func (s *Service) ApplyNetwork(_ context.Context, n *guestv1.Network) (*types.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.spare == nil {
		return nil, fmt.Errorf("guest is not configured: %w", errdefs.ErrFailedPrecondition)
	}
	return &types.Empty{}, s.spare.Apply(n, nil)
}

// PrepareSandbox starts the process 1 of a shared pid namespace. It is idempotent: with a user
// namespace, boot.Prepare has started that process already.
func (s *Service) PrepareSandbox(_ context.Context, r *guestv1.PrepareSandboxRequest) (*types.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !r.GetSharedPid() || held.Has(held.PID) {
		return &types.Empty{}, nil
	}
	cmd := pause.Command()
	if err := s.monitor.Spawn(cmd); err != nil {
		return nil, fmt.Errorf("start pause process: %w", err)
	}
	// Without the name no container could join; the process is of no use then.
	if err := held.Hold(cmd.Process.Pid, held.PID, held.PID); err != nil {
		return nil, errors.Join(err, cmd.Process.Kill())
	}
	return &types.Empty{}, nil
}

// PrepareContainer makes a container's folder, files and mounts. With a spec it makes a container,
// without one it rewrites files of a container that exists: the engine changes hosts and
// resolv.conf while it runs. On an error nothing is left, and the host may send the same id again.
func (s *Service) PrepareContainer(ctx context.Context, r *guestv1.PrepareContainerRequest) (*guestv1.PrepareContainerResponse, error) {
	id, err := containers.ParseID(r.GetId())
	if err != nil {
		return nil, err
	}
	if len(r.GetSpec()) == 0 {
		return &guestv1.PrepareContainerResponse{Bundle: s.table.Dir(id)}, s.rewrite(id, r.GetFiles())
	}
	if err := s.table.Prepare(id); err != nil {
		return nil, err
	}
	dir := s.table.Dir(id)
	// Volumes come before the container's own mounts, which bind parts of them.
	if err = s.volumes.Add(id, r.GetVolumes(), steps.MountVolume); err == nil {
		err = s.prepare(ctx, dir, r)
	}
	// Sockets come after the mounts: they lie in a folder that a mount step may have made.
	if err == nil {
		err = s.sockets.Listen(string(id), dir, r.GetMounts())
	}
	if err != nil {
		// In the reverse order. undo must run even where a listener was never made: nothing below
		// knows how far prepare came.
		s.sockets.Close(string(id))
		err = errors.Join(err, s.undo(id))
		s.table.Forget(id)
		return nil, err
	}
	// Only now: a file of a container that was undone must not be compared with later.
	for _, f := range r.GetFiles() {
		s.sent.keep(id, f)
	}
	// The Task service may take the container from here on.
	s.table.Prepared(id)
	return &guestv1.PrepareContainerResponse{Bundle: dir}, nil
}

// rewrite gives files of a container what the host has of them now. What the container has changed
// in them stays.
func (s *Service) rewrite(id containers.ID, files []*guestv1.File) error {
	if err := s.table.Check(id); err != nil {
		return err
	}
	for _, f := range files {
		if err := steps.RewriteFile(s.table.Dir(id), f.GetPath(), s.sent.get(id, f.GetPath()), f.GetData()); err != nil {
			return fmt.Errorf("write file %s: %w", f.GetPath(), err)
		}
		s.sent.keep(id, f)
	}
	return nil
}

// prepare makes the folder, the files, the mounts and config.json, in this order: mounts may cover
// what files would be written into, and the spec's HOME is read from the mounted root file system.
func (s *Service) prepare(ctx context.Context, dir string, r *guestv1.PrepareContainerRequest) error {
	if err := os.MkdirAll(filepath.Dir(dir), folderMode); err != nil {
		return fmt.Errorf("make folder of containers: %w", err)
	}
	// Mkdir and not MkdirAll: a folder that is there belongs to a container that was not removed.
	if err := os.Mkdir(dir, folderMode); err != nil {
		return fmt.Errorf("make container's folder: %w", err)
	}
	uid, gid := s.users.Root()
	for _, f := range r.GetFiles() {
		if err := steps.WriteFile(dir, f.GetPath(), f.GetData(), os.FileMode(f.GetMode()), uid, gid); err != nil {
			return fmt.Errorf("write file %s: %w", f.GetPath(), err)
		}
	}
	// Sockets are no mounts: package sockets makes them.
	mounts := slices.DeleteFunc(slices.Clone(r.GetMounts()), func(m *guestv1.MountStep) bool { return m.GetType() == sockets.StepType })
	if err := steps.Do(ctx, dir, mounts); err != nil {
		return err
	}
	spec, err := home.InSpec(r.GetSpec(), filepath.Join(dir, rootfs), readPasswd)
	if err != nil {
		return err
	}
	// Only root of the guest reads it: environment variables hold secrets.
	if err := steps.WriteFile(dir, bundleConfig, spec, configMode, 0, 0); err != nil {
		return fmt.Errorf("write spec: %w", err)
	}
	return nil
}

// readPasswd bounds what a hostile image can make the agent read.
func readPasswd(root, rel string) ([]byte, error) { return steps.ReadFile(root, rel, home.MaxPasswd) }

// RemoveContainer takes away what PrepareContainer made, and lets go of the
// share's inodes, each of which holds a descriptor on the host: most of them at
// once, with their mount, the others soon after. It is idempotent: an id that is not known is no
// error. After an error the container stays prepared, so that the host can call again.
func (s *Service) RemoveContainer(ctx context.Context, r *guestv1.RemoveContainerRequest) (*types.Empty, error) {
	id, err := containers.ParseID(r.GetId())
	if err != nil {
		return nil, err
	}
	exists, err := s.table.Remove(id)
	if err != nil || !exists {
		return &types.Empty{}, err
	}
	// Before the listeners: while a mount is in use by someone, the container is not gone.
	if err := s.undo(id); err != nil {
		s.table.Prepared(id)
		return nil, err
	}
	s.sockets.Close(string(id))
	s.sent.forget(id)
	s.table.Forget(id)
	// Not waited for: dropping inodes of a large share takes long, and nothing depends on its end.
	go forgetInodes(ctx)
	return &types.Empty{}, nil
}

// undo unmounts what a container has, and the volumes that no other container has. The mounts go
// first: a bind of a volume would keep it busy.
func (s *Service) undo(id containers.ID) error {
	if err := steps.Undo(s.table.Dir(id), string(id)); err != nil {
		return err
	}
	return s.volumes.Drop(id, steps.UnmountVolume)
}

// Events is a long poll. A wait that is too long is cut to maxWait: the host could not tell a hung
// guest from a quiet one.
func (s *Service) Events(ctx context.Context, r *guestv1.EventsRequest) (*guestv1.EventsResponse, error) {
	wait := min(time.Duration(r.GetWaitMs())*time.Millisecond, maxWait)
	list, err := s.queue.Poll(ctx, r.GetAfter(), wait)
	return &guestv1.EventsResponse{Events: list}, err
}

// FindDisk tells a disk's number. The host puts the number into the spec's devices: the guest's
// kernel chooses it. An absent disk is waited for as long as the call lasts.
func (s *Service) FindDisk(ctx context.Context, r *guestv1.FindDiskRequest) (*guestv1.FindDiskResponse, error) {
	major, minor, err := steps.FindDisk(ctx, int(r.GetLun()))
	return &guestv1.FindDiskResponse{Major: major, Minor: minor}, err
}

// MemoryInfo reads /proc. It takes no lock, so it answers also while a container is being prepared.
func (s *Service) MemoryInfo(context.Context, *types.Empty) (*guestv1.MemoryInfoResponse, error) {
	return memoryInfo()
}

// Shutdown unmounts what is left and powers off. The answer may never arrive: QEMU ends with the
// guest. The host takes the end of the machine as the answer.
func (s *Service) Shutdown(ctx context.Context, _ *types.Empty) (*types.Empty, error) {
	// Disks must be written back. What cannot be unmounted is synced by PowerOff.
	for _, id := range s.table.IDs() {
		if err := steps.UnmountBelow(s.table.Dir(id)); err != nil {
			log.G(ctx).WithError(err).WithField("id", id).Warn("unmount at shutdown")
		}
	}
	boot.PowerOff(ctx)
	return &types.Empty{}, nil
}

var _ guestv1.TTRPCGuestService = (*Service)(nil)
