// SPDX-License-Identifier: Apache-2.0

package sandbox

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

// shells is how many may look into one sandbox at once.
const shells = 4

// serveDebug listens for `cloister debug`, where the config allows it: who may enter the sandbox's folder, root alone, may connect.
// What is said is between the two ends. Nothing of it is read here.
func (s *Sandbox) serveDebug(ctx context.Context) error {
	if s.config.Debug.Shell == "" {
		return nil
	}
	l, err := listenDebug(s.dir)
	if err != nil {
		return fmt.Errorf("debug.shell: %w", err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	go s.acceptDebug(ctx, l)
	s.undo.push("debug", func(context.Context) error {
		cancel() // closes what is open on the host; a guest that does not read is not waited for
		return l.Close()
	})
	return nil
}

// listenDebug makes the socket by the folder's descriptor: its path may be longer than a socket's name.
func listenDebug(dir statedir.Dir) (*net.UnixListener, error) {
	folder, err := os.OpenFile(dir.String(), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), statedir.DebugSocket)})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false) // by that name no more: it goes with the folder
	return l, nil
}

func (s *Sandbox) acceptDebug(ctx context.Context, l *net.UnixListener) {
	slots := make(chan struct{}, shells)
	for {
		conn, err := l.AcceptUnix()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of descriptors there may be some again
			log.G(ctx).WithError(err).Warn("nobody gets a shell in this guest for a second")
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
				s.carryDebug(ctx, conn)
			}()
		default:
			_ = conn.Close()
		}
	}
}

// carryDebug copies both ways until one side hangs up. The user's hanging up counts even if the guest takes nothing more.
func (s *Sandbox) carryDebug(ctx context.Context, conn *net.UnixConn) {
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
	go func() {
		_ = guestapi.AwaitHangUp(watched)
		_ = stream.Close()
	}()
	go func() {
		_, _ = io.Copy(stream, conn)
		_ = stream.CloseWrite() // the guest ends the shell
	}()
	_, _ = io.Copy(conn, stream)
}
