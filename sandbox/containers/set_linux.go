// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"errors"
	"maps"
	"os"
	"slices"
	"sync"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/content"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/hypervisor"
	"cloister/sandbox/undo"
)

// Config is the sandbox that the containers are in. Everything in it stays the caller's. A Set does
// not change it.
type Config struct {
	ID       string        // the sandbox's, which is its first container's
	Workload *oci.Workload // the first container's
	Hostname string        // the host's
	Memory   int64         // what all containers together may use, in bytes
	Planner  Planner
	Driver   confine.Driver
	Rootfs   labels.Label // of root file systems that are mounted for the sandbox; zero: none
	Share    *content.Share
	Shared   bool // the guest has the share
	VM       *hypervisor.VM
	Guest    *guestapi.Client
	Done     <-chan struct{}   // closed when the machine has ended
	Explain  func(error) error // adds the machine's end to an error of a guest call
	AskName  guestapi.Ask      // asks the engine's name server
	Trace    undo.Trace
	Phase    func(ctx context.Context, name string) (end func())
}

// Set is the containers of a guest. Calls to the guest are made under pod and never under mu. mu is
// held for the maps alone: a guest that does not answer must not hold up who only looks into them.
type Set struct {
	config  Config
	volumes *content.Volumes
	changes *content.Changes // of copied files; nil until FollowFiles

	pod       sync.Mutex
	pidShared bool // guarded by pod
	named     bool // the guest reaches the engine's name server; guarded by pod

	showing  sync.Mutex   // orders changes of QEMU's root directory
	removing sync.RWMutex // held for reading while a container is removed

	mu         sync.Mutex
	containers map[string]*resident
	first      *Planned // what the sandbox is started for, until it is added
	luns       map[int]bool
}

// resident is a container in the guest. undo is used by whoever has taken the resident out of the
// map, so by one goroutine.
type resident struct {
	undo     undo.Stack
	rootfs   *os.File // top of the root file system that QEMU may show; nil for none
	readOnly bool

	mu     sync.Mutex
	copied []*content.Copied // guarded by mu
}

// New makes an empty set. The sandbox is started for first, which becomes the set's. The machine
// runs and the agent has said hello.
func New(c Config, first *Planned) *Set {
	return &Set{config: c, volumes: content.NewVolumes(c.Share), containers: map[string]*resident{}, first: first, luns: map[int]bool{}}
}

// Add makes a container's files visible in the guest and gives the guest's bundle. On an error
// nothing of it is left. The bundle is a path in the guest, for the Task API's Create. ctx may end
// in the middle: what was made is taken back all the same. Two calls for one id are the caller's to
// keep apart.
func (s *Set) Add(ctx context.Context, c content.Container) (bundle string, err error) {
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
	defer a.Close()
	// Before the container's spec, which joins that namespace.
	if err := s.sharePID(ctx, c); err != nil {
		return "", err
	}
	defer s.config.Phase(ctx, "rootfs")()
	if err := s.config.Share.AddContainer(c.ID); err != nil {
		return "", err
	}
	r.undo.Push("container's share", func(context.Context) error { return s.config.Share.RemoveContainer(c.ID) })
	req, err := s.furnish(ctx, r, a)
	if err != nil {
		return "", err
	}
	// a cancelled call would leave it unknown what the guest has
	resp, err := s.config.Guest.Guest().PrepareContainer(context.WithoutCancel(ctx), req)
	if err != nil {
		return "", s.config.Explain(err)
	}
	r.undo.Push("container in the guest", func(ctx context.Context) error { return s.forget(ctx, c.ID) })
	s.serveSockets(ctx, r, a)
	for _, f := range r.copied {
		if err := s.serveNames(ctx, f); err != nil {
			return "", err
		}
	}
	s.mu.Lock()
	// Only now does Refresh see the container. The engine's changes up to here are in the bytes
	// that were read, or raise an event that finds it.
	s.containers[c.ID] = r
	s.mu.Unlock()
	return resp.GetBundle(), nil
}

// takeFirst returns the container that the sandbox was started for, which is planned and admitted,
// or plans and admits another. A first container whose Add fails is planned anew the next time: its
// files are closed by then.
func (s *Set) takeFirst(ctx context.Context, c content.Container) (*Planned, error) {
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
	// Before anything is opened: such a container is the author's mistake, or an attack.
	if c.Workload.Role == oci.Member {
		if err := confine.SuitsPod(s.config.Rootfs, s.config.Workload.Labels.Mount, c.Workload.Labels.Mount); err != nil {
			return nil, err
		}
	}
	a, err := s.config.Planner.Plan(c)
	if err != nil {
		return nil, err
	}
	err = a.SuitsShare(s.config.Shared)
	if err == nil {
		err = a.Admit(ctx, s.config.Driver)
	}
	if err != nil {
		a.Close()
		return nil, err
	}
	return a, nil
}

// Remove takes a container's files out of the guest. The task must be gone. An id that is not
// there, or no longer, is no error: delete may come twice. An error means that something is left
// until the sandbox ends.
func (s *Set) Remove(ctx context.Context, id string) error {
	s.removing.RLock()
	defer s.removing.RUnlock()
	s.mu.Lock()
	r := s.containers[id]
	// Out of the map before the undo runs: of two calls for one id only one runs it.
	delete(s.containers, id)
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	defer s.config.Phase(ctx, "remove")()
	return r.undo.Run(ctx)
}

// Close removes the containers that are left when the machine has ended. It waits for those that
// are being removed, because their mounts lie in the sandbox's folder. It may be called of nil. No
// Add may come after it.
func (s *Set) Close(ctx context.Context) error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	left := slices.Collect(maps.Keys(s.containers))
	first := s.first
	s.first = nil
	s.mu.Unlock()
	first.Close()
	var errs []error
	for _, id := range left {
		errs = append(errs, s.Remove(ctx, id))
	}
	// Every Remove that has begun holds it for reading.
	s.removing.Lock()
	defer s.removing.Unlock()
	return errors.Join(errs...)
}

// forget has the guest forget a container, unless the machine has ended. The guest may answer with
// an error while a process still has a file open there; the host's mounts go all the same.
func (s *Set) forget(ctx context.Context, id string) error {
	select {
	case <-s.config.Done:
		return nil
	default:
	}
	_, err := s.config.Guest.Guest().RemoveContainer(ctx, &guestv1.RemoveContainerRequest{Id: id})
	return err
}

// sharePID has the guest start the first process of the pod's shared pid namespace, once the first
// container needs it. A pod of containers with namespaces of their own never has one. It is a
// process of the guest's, so it is not made before somebody needs it.
func (s *Set) sharePID(ctx context.Context, c content.Container) error {
	if c.Workload.Role != oci.Member || !c.Workload.Namespaces.PID.Shared() || c.Joins != 0 {
		return nil
	}
	s.pod.Lock()
	defer s.pod.Unlock()
	if s.pidShared {
		return nil
	}
	_, err := s.config.Guest.Guest().PrepareSandbox(ctx, &guestv1.PrepareSandboxRequest{SharedPid: true})
	s.pidShared = err == nil
	return s.config.Explain(err)
}
