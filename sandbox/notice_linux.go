// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"path"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/log"

	"cloister/oci"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/watch"
)

// noticing bounds how long the guest may take to touch what has changed, a thousand names maybe: below the silence that ends it all.
const noticing = 90 * time.Second

// watched says whether what the host changes in a volume raises events in the guest. One that is read-only cannot be touched.
func (s *Sandbox) watched(m oci.Mount, source string) bool {
	return m.Kind == oci.BindMount && !m.ReadOnly && !m.Purpose.Copied() && m.Purpose != oci.SharedMemory &&
		allowed(source, s.config.Workloads.Watch) && !isSocket(source)
}

// watchedTarget is where the guest has a volume that is watched, n being the mount's number: the agent and the container are to
// have it from one mount, since each mount of the kernel's has inodes, and events, of its own.
func watchedTarget(n int) string { return path.Join("watched", strconv.Itoa(n)) }

// watchVolumes begins to watch a container's volumes. No watch is no reason not to run.
func (s *Sandbox) watchVolumes(ctx context.Context, r *resident, c Container, shared string) {
	for i, m := range c.Workload.Mounts {
		source := c.absolute(m.Source)
		if !s.watched(m, source) {
			continue
		}
		logger := log.G(ctx).WithField("volume", source)
		tree, err := watch.Open(filepath.Join(shared, "m", strconv.Itoa(i)))
		if err != nil {
			logger.WithError(err).Warn("the host's changes raise no events in the guest")
			continue
		}
		ctx, cancel := context.WithCancel(log.WithLogger(context.WithoutCancel(ctx), logger))
		r.undo.push("watch of "+m.Destination, func(context.Context) error {
			cancel()
			return tree.Close()
		})
		go s.notice(ctx, tree, &guestv1.NoticeRequest{Id: c.ID, Target: watchedTarget(i)})
	}
}

// notice ends with the container, or when the guest does not take what it is told.
func (s *Sandbox) notice(ctx context.Context, tree *watch.Tree, req *guestv1.NoticeRequest) {
	var err error
	for full := false; err == nil; {
		if tree.Full() && !full {
			full = true
			log.G(ctx).Warnf("more than %d folders, or very long names: changes in some raise no events in the guest", watch.MaxFolders)
		}
		var names []string
		if names, err = tree.Next(); err == nil {
			err = s.tell(ctx, req, names)
		}
	}
	if ctx.Err() == nil && s.guest.Err() == nil {
		log.G(ctx).WithError(err).Warn("from now on the host's changes raise no events in the guest")
	}
}

func (s *Sandbox) tell(ctx context.Context, req *guestv1.NoticeRequest, names []string) error {
	ctx, cancel := context.WithTimeout(ctx, noticing)
	defer cancel()
	req.Names = nil
	for _, name := range names {
		req.Names = append(req.Names, []byte(name))
	}
	_, err := s.guest.Guest().Notice(ctx, req)
	return err
}
