// SPDX-License-Identifier: Apache-2.0

package debug

import (
	"context"
	"io"
	"net"
	"os"
	"testing"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
)

// pair gives both ends of a connection.
func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(f)
		if err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		t.Cleanup(func() { _ = conn.Close() })
		ends[i] = conn.(*net.UnixConn)
	}
	return ends[0], ends[1]
}

// fakeGuest gives the client of a guest whose agent does with its streams, but the control stream,
// what is said.
func fakeGuest(t *testing.T, do func(*yamux.Stream)) *guestapi.Client {
	t.Helper()
	near, far := pair(t)
	go func() {
		session, err := guestapi.Serve(far, guestapi.Hello{Protocol: guestapi.Protocol, AgentVersion: "fake"})
		if err != nil {
			return
		}
		for {
			stream, err := session.AcceptStream()
			if err != nil {
				return
			}
			if name, err := guestapi.ReadStreamName(stream); err == nil && name != guestapi.ControlStream {
				go do(stream)
			}
		}
	}()
	c, _, err := guestapi.NewClient(t.Context(), near, guestapi.Machine{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestDebugEnds has a user hang up, or the sandbox end, while the guest takes nothing more of what
// is sent.
func TestDebugEnds(t *testing.T) {
	for name, end := range map[string]func(user *net.UnixConn, cancel func()){
		"the user hangs up": func(user *net.UnixConn, _ func()) { _ = user.Close() },
		"the sandbox ends":  func(_ *net.UnixConn, cancel func()) { cancel() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			user, near := pair(t)
			s := &Server{guest: fakeGuest(t, func(*yamux.Stream) {})}
			go func() {
				// More than a stream's window, which is full then.
				_, _ = io.CopyN(user, zeros{}, 300<<10)
				end(user, cancel)
			}()
			s.carry(ctx, near)
		})
	}
}
