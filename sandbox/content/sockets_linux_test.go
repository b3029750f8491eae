// SPDX-License-Identifier: Apache-2.0

package content

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

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

// TestSocketEnds has guests that do not read, or have gone, while a server of the host speaks
// without end.
func TestSocketEnds(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	full, heard := make(chan struct{}, 8), make(chan string)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				said := make(chan string)
				go func() {
					all, _ := io.ReadAll(conn)
					said <- string(all)
				}()
				_, _ = io.CopyN(conn, zeros{}, 300<<10) // more than a stream's window
				full <- struct{}{}
				_, _ = io.Copy(conn, zeros{})
				heard <- <-said
			}()
		}
	}()
	for _, tt := range []struct {
		name string
		say  func(stream *yamux.Stream, cancel func())
		want string
	}{
		{"never reads, and the container goes", func(_ *yamux.Stream, cancel func()) {
			<-full
			cancel()
		}, ""},
		{"has gone in the middle", func(s *yamux.Stream, _ func()) {
			_, _ = io.CopyN(io.Discard, s, 1<<20)
			_ = s.Close()
		}, ""},
		{"reads after its last word, and goes", func(s *yamux.Stream, _ func()) {
			_ = guestapi.WriteFrame(s, guestapi.FrameInput, []byte("last"))
			_ = guestapi.WriteFrame(s, guestapi.FrameInput, nil)
			_, _ = io.CopyN(io.Discard, s, 1<<20)
			_ = s.Close()
		}, "last"},
		{"breaks the contract", func(s *yamux.Stream, _ func()) { _, _ = s.Write([]byte("nonsense")) }, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			c := fakeGuest(t, func(s *yamux.Stream) {
				_, _ = s.Write([]byte{guestapi.Connected})
				tt.say(s, cancel)
			})
			stream, err := c.AcceptSocket(ctx, "s")
			if err != nil {
				t.Fatal(err)
			}
			(&server{path: socket}).carry(ctx, stream)
			if got := <-heard; got != tt.want {
				t.Errorf("the server heard %q, want %q", got, tt.want)
			}
		})
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

// TestDialSocketWaits has a server whose queue is full.
func TestDialSocketWaits(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: socket}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(fd, 0); err != nil { // room for one
		t.Fatal(err)
	}
	first, err := dialSocket(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if _, err := dialSocket(ctx, socket); !errors.Is(err, unix.EAGAIN) || ctx.Err() == nil {
		t.Errorf("a full queue = %v before the time is up, want %v after it", err, unix.EAGAIN)
	}
	taken, _, err := unix.Accept(fd)
	if err != nil {
		t.Fatal(err)
	}
	_ = unix.Close(taken)
	second, err := dialSocket(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	_ = second.Close()
}
