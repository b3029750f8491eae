// SPDX-License-Identifier: Apache-2.0

package debug

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
	"cloister/sandbox/statedir"
)

// shells bounds the connections of one sandbox. One more is hung up at once.
const shells = 4

// Guest opens a stream to the program that serves a shell in the guest.
type Guest interface {
	OpenDebug(ctx context.Context) (*guestapi.Stream, error)
}

// Server accepts connections until Close. It lives as long as the guest's connection.
type Server struct {
	guest  Guest
	socket *net.UnixListener
	cancel context.CancelFunc
}

// Serve listens in a sandbox's folder. Only root may enter the folder, so only root may connect.
// The bytes of a connection pass through unread. It is called only where [debug] shell is set when
// the sandbox starts. ctx gives values alone.
func Serve(ctx context.Context, dir statedir.Dir, guest Guest) (*Server, error) {
	socket, err := listen(dir)
	if err != nil {
		return nil, fmt.Errorf("debug.shell: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	s := &Server{guest: guest, socket: socket, cancel: cancel}
	go s.accept(ctx)
	return s, nil
}

// Close ends the server and all its connections. It does not wait for a guest that no longer reads.
// It may be called while shells run; they end.
func (s *Server) Close() error {
	s.cancel()
	return s.socket.Close()
}

// listen makes the socket by the descriptor of the folder, whose path may be longer than a socket's
// name. A socket's name has 108 bytes (sun_path), which a state folder, a namespace and an id may
// exceed.
func listen(dir statedir.Dir) (*net.UnixListener, error) {
	folder, err := os.OpenFile(dir.String(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{
		Net:  "unix",
		Name: fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), statedir.DebugSocket),
	})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // it is removed with the folder
	return l, nil
}

// accept goes on after errors: the shim must not lose its debug socket because it was short of
// descriptors once.
func (s *Server) accept(ctx context.Context) {
	slots := make(chan struct{}, shells)
	for {
		conn, err := s.socket.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // EMFILE, for example: try again
			log.G(ctx).WithError(err).Warn("accept a connection of cloister debug: trying again in a second")
			select {
			case <-ctx.Done():
				return
			case <-time.After(time.Second):
				continue
			}
		}
		select {
		case slots <- struct{}{}:
			go func() {
				defer func() { <-slots }()
				s.carry(ctx, conn)
			}()
		default:
			_ = conn.Close()
		}
	}
}

// carry copies both ways until one side hangs up. It ends when the user hangs up, even if the guest
// does not read.
func (s *Server) carry(ctx context.Context, conn *net.UnixConn) {
	defer conn.Close()
	watched, err := conn.File() // conn itself is read
	if err != nil {
		return
	}
	defer watched.Close()
	stream, err := s.guest.OpenDebug(ctx)
	if err != nil {
		return
	}
	defer stream.Close()
	defer context.AfterFunc(ctx, func() { _, _ = conn.Close(), stream.Close() })()
	guestapi.Relay(conn, stream, func() {
		go func() {
			_, _ = io.Copy(stream, conn)
			_ = stream.CloseWrite() // the guest ends the shell
		}()
		// A copy that is blocked in a write to a guest sees no end of the user's side.
		_ = guestapi.AwaitHangUp(watched)
	})
}
