// SPDX-License-Identifier: Apache-2.0

package containers

import (
	"context"
	"time"

	"github.com/containerd/log"

	"cloister/sandbox/content"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/plan"
	"cloister/sandbox/watch"
)

// noticing bounds how long the guest may take to touch what has changed, a thousand names maybe:
// below the silence that ends the connection.
const noticing = 90 * time.Second

// serveSockets carries connections from the guest's sockets to the host's until the container is
// removed. It begins after the guest has made its listeners, which PrepareContainer does.
func (s *Set) serveSockets(ctx context.Context, r *resident, a *Planned) {
	if len(a.Sockets) == 0 {
		return
	}
	// The call that adds the container ends long before its sockets do.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	for _, socket := range a.Sockets {
		token := guestapi.Token(socket.Token)
		go content.Relay(ctx, socket.Name, func(ctx context.Context) (*guestapi.Stream,
			error,
		) {
			return s.config.Guest.AcceptSocket(ctx, token)
		})
	}
	r.undo.Push("sockets", func(context.Context) error {
		cancel() // closes what is open on the host; a guest that does not read is not waited for
		return nil
	})
}

// watchVolume has what the host changes in a volume raise events in the guest. No watch is no
// reason not to run. A host out of inotify watches is one reason.
func (s *Set) watchVolume(ctx context.Context, r *resident, id string, v plan.Volume, use *content.Use) {
	logger := log.G(ctx).WithField("volume", v.Destination)
	tree, err := use.Watch()
	if err != nil {
		logger.WithError(err).Warn("the host's changes raise no events in the guest")
		return
	}
	ctx, cancel := context.WithCancel(log.WithLogger(context.WithoutCancel(ctx), logger))
	// Closing the tree ends a Next that waits; the context ends a call to the guest.
	r.undo.Push("watch of "+v.Destination, func(context.Context) error {
		cancel()
		return tree.Close()
	})
	go s.notice(ctx, tree, &guestv1.NoticeRequest{Id: id, Target: v.WatchedTarget()})
}

// notice ends with the container, or when the guest does not take what it is told. One call at a
// time: a guest that is slow gets fewer and longer lists, and nothing is queued for it.
func (s *Set) notice(ctx context.Context, tree *watch.Tree, req *guestv1.NoticeRequest) {
	content.Follow(ctx, tree, func(ctx context.Context, names []string) error {
		ctx, cancel := context.WithTimeout(ctx, noticing)
		defer cancel()
		req.Names = nil
		for _, name := range names {
			// Names of files are bytes on Linux, and a string of protobuf must be UTF-8.
			req.Names = append(req.Names, []byte(name))
		}
		_, err := s.config.Guest.Guest().Notice(ctx, req)
		return err
	})
}
