// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
)

const (
	// socketClients is how many connections of a container one of the host's sockets has at once; more wait in the guest.
	socketClients = 32
	// socketAnswer is how long whoever listens on the host may take to accept.
	socketAnswer = 10 * time.Second
	// socketFarewell is how long it may say nothing after the guest's last word.
	socketFarewell = time.Minute
	socketType     = "socket"
	socketToken    = "token:"
)

// socketStep has the guest listen as the host's socket would, with its mode and owners; n is the mount's number.
func socketStep(source, n string) (*guestv1.MountStep, error) {
	var st unix.Stat_t
	if err := unix.Stat(source, &st); err != nil {
		return nil, &os.PathError{Op: "stat", Path: source, Err: err}
	}
	return &guestv1.MountStep{
		Type: socketType, Source: socketToken + strings.ToLower(rand.Text()), Target: "sockets/" + n,
		Options: []string{fmt.Sprintf("mode=%o", st.Mode&0o777), fmt.Sprintf("uid=%d", st.Uid), fmt.Sprintf("gid=%d", st.Gid)},
	}, nil
}

// serveSockets carries connections from the guest's sockets to the host's until the container is removed.
func (s *Sandbox) serveSockets(ctx context.Context, r *resident, c Container, steps []*guestv1.MountStep) {
	steps = slices.DeleteFunc(slices.Clone(steps), func(m *guestv1.MountStep) bool { return m.GetType() != socketType })
	if len(steps) == 0 {
		return
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	for _, step := range steps {
		token, ok := strings.CutPrefix(step.GetSource(), socketToken)
		n, err := strconv.Atoi(path.Base(step.GetTarget()))
		if ok && err == nil {
			go s.serveSocket(ctx, guestapi.Token(token), c.absolute(c.Workload.Mounts[n].Source))
		}
	}
	r.undo.push("sockets", func(context.Context) error {
		cancel() // closes what is open on the host; a guest that does not read is not waited for
		return nil
	})
}

// serveSocket has one stream wait for the guest's next connection. It ends with the container or the guest.
func (s *Sandbox) serveSocket(ctx context.Context, token guestapi.Token, source string) {
	slots := make(chan struct{}, socketClients)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		stream, err := s.guest.AcceptSocket(ctx, token)
		if err != nil {
			if ctx.Err() == nil && s.guest.Err() == nil {
				log.G(ctx).WithError(err).WithField("socket", source).Warn("the guest does not listen any more")
			}
			return
		}
		go func() {
			defer func() { <-slots }()
			carrySocket(ctx, stream, source)
		}()
	}
}

// carrySocket ends when the host's side has: what it says after the guest's last word is waited for, but not without end.
func carrySocket(ctx context.Context, stream *guestapi.Stream, source string) {
	defer stream.Close()
	conn, err := (&net.Dialer{Timeout: socketAnswer}).DialContext(ctx, "unix", source)
	if err != nil {
		log.G(ctx).WithError(err).Warn("a guest's connection to a socket of the host")
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	server := &patient{UnixConn: conn.(*net.UnixConn)} //nolint:forcetypeassert // what "unix" gives
	go func() {
		_, _ = io.Copy(conn, stream)
		server.hurry()
	}()
	_, _ = io.Copy(stream, server)
}

// patient is a server that may be silent as long as its client is there.
type patient struct {
	*net.UnixConn

	mu   sync.Mutex
	left bool // the client has said its last word
}

// hurry ends what the server reads.
func (p *patient) hurry() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left = true
	_ = p.CloseWrite()
	_ = p.SetReadDeadline(time.Now().Add(socketFarewell))
}

// Read gives what the server says.
func (p *patient) Read(b []byte) (int, error) {
	p.mu.Lock()
	if p.left {
		_ = p.SetReadDeadline(time.Now().Add(socketFarewell))
	}
	p.mu.Unlock()
	return p.UnixConn.Read(b)
}
