// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
	"cloister/sys"
)

const (
	// socketClients is how many connections of a container one of the host's sockets has at once;
	// more wait in the guest.
	socketClients = 32
	// socketAnswer is how long whoever listens on the host may take to accept.
	socketAnswer = 10 * time.Second
)

// Relay carries connections from the guest to a socket of the host, whose name has no links in it,
// until ctx is done or the guest has gone. accept waits for the guest's next connection. It returns
// when no further connection will come. Connections that are being carried end with ctx or with
// their own two sides. name must have been checked against workloads.sockets.
func Relay(ctx context.Context, name string, accept func(context.Context) (*guestapi.Stream, error)) {
	to := &server{path: name}
	// A slot is taken before accept: a guest that connects without end costs the shim no more than
	// these streams and descriptors.
	slots := make(chan struct{}, socketClients)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		stream, err := accept(ctx)
		if err != nil {
			if ended := errors.Is(err, errdefs.ErrUnavailable) && !errors.Is(err, guestapi.ErrRefused); !ended && ctx.Err() == nil {
				log.G(ctx).WithError(err).WithField("socket",
					to.path).Warn("the guest no longer listens for connections to a socket of the host")
			}
			return
		}
		go func() {
			defer func() { <-slots }()
			to.carry(ctx, stream)
		}()
	}
}

// server is a listed socket of the host.
type server struct {
	path string // without links

	mu   sync.Mutex
	told string // why the last connection failed; the guest may try as often as it likes
}

// carry ends when the host's side has, or the guest's client has gone. The guest learns of a
// refused connection by the end of its stream.
func (h *server) carry(ctx context.Context, stream *guestapi.Stream) {
	defer stream.Close()
	conn, err := dialSocket(ctx, h.path)
	h.tell(ctx, err)
	if err != nil {
		return
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _, _ = conn.Close(), stream.Close() })()
	guestapi.Relay(stream, conn, func() { guestapi.CopyInput(conn, stream) })
}

// tell logs a failure, once until it is another one. The text has no bytes of the guest's.
func (h *server) tell(ctx context.Context, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	text := ""
	if err != nil {
		text = err.Error()
	}
	if text != "" && text != h.told {
		log.G(ctx).WithField("socket", h.path).WithError(err).Warn("a guest's connection to a socket of the host was refused")
	}
	h.told = text
}

// dialSocket connects to what is at a path now, if no link leads there: who can put a link in the
// socket's place, as a guest can that has its folder for a volume, would choose the server. An open
// descriptor is connected to by its name in /proc: between the check and the connect nothing is
// resolved again.
func dialSocket(ctx context.Context, path string) (*net.UnixConn, error) {
	socket, err := sys.OpenNoLinks(path, unix.O_PATH)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("its path now leads through a symbolic link, and did not when the container was created: %w", err)
	}
	if err != nil {
		return nil, err
	}
	defer socket.Close()
	ctx, cancel := context.WithTimeout(ctx, socketAnswer)
	defer cancel()
	conn, err := dialPatiently(ctx, fmt.Sprintf("/proc/self/fd/%d", socket.Fd()))
	errno, known := errors.AsType[unix.Errno](err)
	switch {
	case errors.Is(err, unix.EACCES):
		return nil,
			fmt.Errorf("the host's policy does not let the shim connect to the listening process: `cloister why` shows the "+
				"rule that allows it: %w", errno)
	case errors.Is(err, unix.EAGAIN):
		return nil, fmt.Errorf("the listening process has accepted no connection for %s, and its queue is full: %w", socketAnswer, errno)
	case known:
		return nil, errno // without the descriptor's number
	case err != nil:
		return nil, err
	}
	return conn.(*net.UnixConn), nil //nolint:forcetypeassert // what "unix" gives
}

// dialPatiently waits while the server's queue is full, as a client does whose connect may block. A
// nonblocking connect to a stream socket gives EAGAIN while the backlog is full. No event tells of
// the end of that, so it is tried every 20 ms.
func dialPatiently(ctx context.Context, path string) (net.Conn, error) {
	var full error
	for {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", path)
		switch {
		case errors.Is(err, unix.EAGAIN):
			full = err
		case full != nil && (ctx.Err() != nil || errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded)):
			<-ctx.Done() // the dialer may be a little earlier
			return nil, full
		default:
			return conn, err
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
}
