// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"maps"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"cloister/oci"
	"cloister/sandbox/content"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/network"
)

// addCopies reads the files that the container gets copies of, and follows them. The undo step is
// pushed before the watch begins, so that descriptors go also when only a part of the files can be
// watched.
func (s *Set) addCopies(ctx context.Context, r *resident, a *Planned, req *guestv1.PrepareContainerRequest) (err error) {
	admit, err := a.copies(s.config.Driver)
	if err != nil {
		return err
	}
	// A later read happens after the call that adds the container has ended.
	later := context.WithoutCancel(ctx)
	copied, err := a.files.OpenCopies(a.Copies, func(f *os.File) error { return admit(later, f) })
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
	s.changes.Follow(copied)
	return nil
}

// Refresh sends a container those of its copied files that the engine has changed since: Docker
// writes hosts and resolv.conf between Create and Start, and again when a network comes or goes. A
// container that is not in the guest (any more) is no error: an event may come late. An error means
// that the guest has the old bytes; the next change sends all that differ from what was read last.
func (s *Set) Refresh(ctx context.Context, id string) error {
	s.mu.Lock()
	r := s.containers[id]
	s.mu.Unlock()
	if r == nil {
		return nil
	}
	// Held over the call to the guest: two refreshes of one container would otherwise send an older
	// file last.
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
	_, err := s.config.Guest.Guest().PrepareContainer(ctx, req)
	return s.config.Explain(err)
}

// FollowFiles sends every container the copied files that the engine changes from now on, until
// stop is called. A host without a free inotify instance still runs the sandbox, and its files are
// looked at every few seconds. It is called once, before the first Add. ctx gives values alone.
func (s *Set) FollowFiles(ctx context.Context) (stop func() error) {
	ctx = context.WithoutCancel(ctx)
	s.changes = content.NewChanges(func() { s.refreshAll(ctx) }, func(err error) {
		log.G(ctx).WithError(err).Warn("the engine's files are looked at every few seconds")
	})
	return s.changes.Close
}

// refreshAll sends all containers what the engine has changed of their files. A container that is
// removed meanwhile is left out without a word.
func (s *Set) refreshAll(ctx context.Context) {
	s.mu.Lock()
	ids := slices.Collect(maps.Keys(s.containers))
	s.mu.Unlock()
	for _, id := range ids {
		if err := s.Refresh(ctx, id); err != nil && !errdefs.IsNotFound(err) {
			log.G(ctx).WithError(err).WithField("id", id).Warn("send the engine's changed files to the guest")
		}
	}
}

// serveNames has the guest reach the engine's name server once a container is told to use it.
// Docker has one on the loopback device of every user-defined network, which in a guest is the
// guest's own. The relay is started for the first container that needs it and serves the whole
// guest. One that failed is tried again with the next container.
func (s *Set) serveNames(ctx context.Context, c *content.Copied) error {
	if c.Purpose != oci.ResolvFile || !network.AsksEngine(c.Data) {
		return nil
	}
	s.pod.Lock()
	defer s.pod.Unlock()
	if s.named {
		return nil
	}
	err := s.config.Guest.ServeNames(ctx, s.config.AskName)
	s.named = err == nil
	return s.config.Explain(err)
}
