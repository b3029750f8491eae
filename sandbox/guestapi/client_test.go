// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	guestv1 "cloister/sandbox/guestapi/v1"
)

const patience = time.Minute

func channel(t *testing.T) (host, guest net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	ends := make([]net.Conn, 2)
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "channel")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		_ = f.Close()
		t.Cleanup(func() { _ = ends[i].Close() })
	}
	return ends[0], ends[1]
}

// fakeGuest answers as its fields say; the rest of the service is nil.
type fakeGuest struct {
	guestv1.TTRPCGuestService
	events chan []*guestv1.Event
	err    error
}

func (f *fakeGuest) MemoryInfo(context.Context, *emptypb.Empty) (*guestv1.MemoryInfoResponse, error) {
	return &guestv1.MemoryInfoResponse{TotalKib: 7}, errgrpc.ToGRPC(f.err)
}

func (f *fakeGuest) Events(ctx context.Context, _ *guestv1.EventsRequest) (*guestv1.EventsResponse, error) {
	select {
	case e := <-f.events:
		return &guestv1.EventsResponse{Events: e}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

type oneConn struct {
	net.Listener
	conns chan net.Conn
}

func (l oneConn) Accept() (net.Conn, error) {
	c, ok := <-l.conns
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (oneConn) Close() error   { return nil }
func (oneConn) Addr() net.Addr { return &net.UnixAddr{} }

// serveGuest is an honest agent: ttrpc, and io streams that echo.
func serveGuest(t *testing.T, conn net.Conn, guest *fakeGuest) {
	t.Helper()
	session, err := Serve(conn, Hello{Protocol: Protocol, AgentVersion: "test", Uptime: time.Second})
	if err != nil {
		t.Error(err)
		return
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Error(err)
		return
	}
	guestv1.RegisterTTRPCGuestService(server, guest)
	control := oneConn{conns: make(chan net.Conn, 1)}
	go server.Serve(context.Background(), control) //nolint:errcheck // ends with the test
	for {
		s, err := session.AcceptStream()
		if err != nil {
			close(control.conns)
			return
		}
		name, err := ReadStreamName(s)
		if err != nil { // the session ended
			continue
		}
		if name == ControlStream {
			control.conns <- s
			continue
		}
		go func() {
			io.Copy(s, s) //nolint:errcheck // ends with the test
			_ = s.Close()
		}()
	}
}

func newTestClient(t *testing.T, guest *fakeGuest) *Client {
	t.Helper()
	host, far := channel(t)
	go serveGuest(t, far, guest)
	c, hello, err := NewClient(t.Context(), host, Machine{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	if hello.AgentVersion != "test" || hello.Uptime != time.Second {
		t.Errorf("hello = %+v", hello)
	}
	return c
}

func TestClientCallsAndStreams(t *testing.T) {
	c := newTestClient(t, &fakeGuest{})
	info, err := c.Guest().MemoryInfo(t.Context(), &emptypb.Empty{})
	if err != nil || info.GetTotalKib() != 7 {
		t.Fatalf("MemoryInfo = %v, %v", info, err)
	}
	s, err := c.OpenStream(t.Context(), "echo-1")
	if err != nil {
		t.Fatal(err)
	}
	sent := strings.Repeat("0123456789", 100_000) // more than a window
	go func() {
		io.WriteString(s, sent) //nolint:errcheck // the reader sees it
		s.CloseWrite()          //nolint:errcheck // the reader sees it
	}()
	got, err := io.ReadAll(s)
	if err != nil || string(got) != sent {
		t.Errorf("echo of %d bytes gives %d, %v", len(sent), len(got), err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	if _, err := c.OpenStream(t.Context(), "../x"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("OpenStream(../x) = %v", err)
	}
}

func TestClientErrorsKeepClassAndAreCut(t *testing.T) {
	long := "no\x1b[2J " + strings.Repeat("x", 10_000)
	c := newTestClient(t, &fakeGuest{err: errors.Join(errdefs.ErrNotFound, errors.New(long))})
	_, err := c.Guest().MemoryInfo(t.Context(), &emptypb.Empty{})
	if !errors.Is(err, errdefs.ErrNotFound) {
		t.Errorf("MemoryInfo = %v, want %v", err, errdefs.ErrNotFound)
	}
	if len(err.Error()) > 2*maxErrorText || strings.ContainsRune(err.Error(), 0x1b) {
		t.Errorf("error of %d bytes: %.100q", len(err.Error()), err)
	}
}

func TestClientEnds(t *testing.T) {
	c := newTestClient(t, &fakeGuest{})
	s, err := c.OpenStream(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Err(); err != nil {
		t.Errorf("Err before the end = %v", err)
	}
	_ = c.Close()
	waitDone(t, c)
	if !errors.Is(c.Err(), errdefs.ErrUnavailable) {
		t.Errorf("Err = %v", c.Err())
	}
	if _, err := s.Read(make([]byte, 1)); err == nil {
		t.Error("Read on a closed session succeeded")
	}
	if _, err := c.Guest().MemoryInfo(t.Context(), &emptypb.Empty{}); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("call on a closed session = %v", err)
	}
	if _, err := c.OpenStream(t.Context(), "b"); !errors.Is(err, errdefs.ErrUnavailable) {
		t.Errorf("OpenStream on a closed session = %v", err)
	}
}

func waitDone(t *testing.T, c *Client) {
	t.Helper()
	select {
	case <-c.Done():
	case <-time.After(patience):
		t.Fatal("session did not end")
	}
}

func event(seq uint64, topic string, m proto.Message) *guestv1.Event {
	e := &guestv1.Event{Seq: seq, Topic: topic}
	if m != nil {
		e.Event = &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName())}
		e.Event.Value, _ = proto.Marshal(m)
	}
	return e
}

func TestEvents(t *testing.T) {
	good := event(1, "/tasks/exit", &events.TaskExit{ContainerID: "c", ExitStatus: 3})
	many := make([]*guestv1.Event, MaxEvents+1)
	for i := range many {
		many[i] = event(uint64(i+1), "/tasks/oom", &events.TaskOOM{})
	}
	for _, tt := range []struct {
		name    string
		in      []*guestv1.Event
		want    int
		wantErr error
	}{
		{name: "good", in: []*guestv1.Event{good}, want: 1, wantErr: context.Canceled},
		{name: "repeated", in: []*guestv1.Event{good, good}, want: 1, wantErr: ErrProtocol},
		{name: "gap", in: []*guestv1.Event{event(2, "/tasks/oom", &events.TaskOOM{})}, wantErr: ErrProtocol},
		{name: "topic", in: []*guestv1.Event{event(1, "/images/delete", &events.TaskOOM{})}, wantErr: ErrProtocol},
		{name: "type", in: []*guestv1.Event{event(1, "/tasks/exit", &events.TaskOOM{})}, wantErr: ErrProtocol},
		{name: "no body", in: []*guestv1.Event{event(1, "/tasks/exit", nil)}, wantErr: ErrProtocol},
		{
			name: "large", in: []*guestv1.Event{event(1, "/tasks/oom", &events.TaskOOM{ContainerID: strings.Repeat("x", MaxEventBytes+1)})},
			wantErr: ErrProtocol,
		},
		{name: "many", in: many, wantErr: ErrProtocol},
	} {
		t.Run(tt.name, func(t *testing.T) {
			guest := &fakeGuest{events: make(chan []*guestv1.Event, 1)}
			guest.events <- tt.in
			c := newTestClient(t, guest)
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			got := 0
			err := c.Events(ctx, func(Event) error {
				if got++; tt.name == "good" {
					cancel()
				}
				return nil
			})
			if !errors.Is(err, tt.wantErr) || got != tt.want {
				t.Errorf("Events = %v after %d, want %v after %d", err, got, tt.wantErr, tt.want)
			}
			if errors.Is(tt.wantErr, ErrProtocol) {
				waitDone(t, c)
			}
		})
	}
}

func FuzzDecodeEvent(f *testing.F) {
	body, _ := proto.Marshal(&events.TaskExit{ContainerID: "c", ExitStatus: 3})
	f.Add("/tasks/exit", "containerd.events.TaskExit", body)
	f.Fuzz(func(_ *testing.T, topic, kind string, value []byte) {
		e, err := decodeEvent(&guestv1.Event{Topic: topic, Event: &anypb.Any{TypeUrl: kind, Value: value}})
		if (err == nil) != (e.Body != nil) {
			panic(err)
		}
	})
}

// hostile gives a client whose guest says hello and then what say sends; it
// reads all that the host sends. The session may have ended before there is a
// client.
func hostile(t *testing.T, say func(conn net.Conn, session *yamux.Session)) (*Client, error) {
	t.Helper()
	host, far := channel(t)
	go func() {
		session, err := Serve(far, Hello{Protocol: Protocol, AgentVersion: "hostile"})
		if err != nil {
			return
		}
		if _, err := session.AcceptStream(); err == nil {
			say(far, session)
		}
	}()
	c, _, err := NewClient(t.Context(), host, Machine{})
	if err == nil {
		t.Cleanup(func() { _ = c.Close() })
	}
	return c, err
}

func TestHostileGuestEndsTheSession(t *testing.T) {
	for _, tt := range []struct {
		name string
		say  func(conn net.Conn, session *yamux.Session)
	}{
		{"opens a stream", func(_ net.Conn, s *yamux.Session) { s.OpenStream() }}, //nolint:errcheck // it is refused
		{"pings", func(_ net.Conn, s *yamux.Session) { s.Ping() }},                //nolint:errcheck // it is refused
		{"nonsense", func(c net.Conn, _ *yamux.Session) { _, _ = io.WriteString(c, strings.Repeat("nonsense", 1000)) }},
		{"huge frame", func(c net.Conn, _ *yamux.Session) { _, _ = c.Write(frame(0, frameData, 0, 1, 1<<31)) }},
		{"answer never asked for", func(c net.Conn, _ *yamux.Session) {
			_, _ = c.Write(append(frame(0, frameData, 0, 1, callHeader), "\x00\x00\x00\x00\x00\x00\x00\x09\x02\x00"...))
		}},
		{"more than the window", func(c net.Conn, _ *yamux.Session) {
			for range 3 {
				_, _ = c.Write(append(frame(0, frameData, 0, 1, window), make([]byte, window)...))
			}
		}},
		{"window and goodbye", func(c net.Conn, _ *yamux.Session) { _ = c.Close() }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := hostile(t, tt.say)
			if err != nil {
				if !errors.Is(err, errdefs.ErrUnavailable) {
					t.Errorf("NewClient = %v", err)
				}
				return
			}
			waitDone(t, c)
			if c.Err() == nil {
				t.Error("Err = nil")
			}
			if _, err := c.Guest().MemoryInfo(t.Context(), &emptypb.Empty{}); !errors.Is(err, errdefs.ErrUnavailable) {
				t.Errorf("call after the end = %v", err)
			}
		})
	}
}

// TestCallsToASilentGuestEnd has a guest that reads nothing: calls and opens end with
// their contexts all the same.
func TestCallsToASilentGuestEnd(t *testing.T) {
	host, far := channel(t)
	if _, err := io.WriteString(far, Hello{Protocol: Protocol, AgentVersion: "silent"}.String()); err != nil {
		t.Fatal(err)
	}
	c, _, err := NewClient(t.Context(), host, Machine{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	large := &guestv1.PrepareContainerRequest{Spec: make([]byte, 1<<20)}
	for range 5 {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		_, err := c.Guest().PrepareContainer(ctx, large)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "answer to PrepareContainer") {
			t.Errorf("PrepareContainer = %v, want %v and the call's name", err, context.DeadlineExceeded)
		}
		if _, err := c.OpenStream(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "stream a:") {
			t.Errorf("OpenStream = %v, want %v and the stream's name", err, context.DeadlineExceeded)
		}
		cancel()
	}
	_ = c.Close()
	waitDone(t, c)
}

// TestStreamOfAGuestThatDoesNotAnswer has a guest that takes streams, and neither reads nor ends
// them: Close ends who reads and who writes.
func TestStreamOfAGuestThatDoesNotAnswer(t *testing.T) {
	c, err := hostile(t, func(_ net.Conn, session *yamux.Session) {
		for {
			if _, err := session.AcceptStream(); err != nil {
				return
			}
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	s, err := c.OpenStream(t.Context(), "a")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 2)
	go func() {
		_, err := s.Write(make([]byte, 2*window))
		ended <- err
	}()
	go func() {
		_, err := s.Read(make([]byte, 1))
		ended <- err
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-ended; err == nil {
			t.Error("a stream that is closed gives no error")
		}
	}
}

func TestNewClientRefuses(t *testing.T) {
	for _, tt := range []struct {
		name, say string
		wantErr   error
	}{
		{"another protocol", "cloister/1 9.9\n", errdefs.ErrFailedPrecondition},
		{"no preamble", strings.Repeat("\x00", 300), errdefs.ErrInvalidArgument},
		{"silence", "", context.DeadlineExceeded},
	} {
		t.Run(tt.name, func(t *testing.T) {
			host, far := channel(t)
			if _, err := io.WriteString(far, tt.say); err != nil {
				t.Fatal(err)
			}
			limit := patience
			if tt.say == "" {
				limit = 200 * time.Millisecond
			}
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			defer cancel()
			if _, _, err := NewClient(ctx, host, Machine{}); !errors.Is(err, tt.wantErr) {
				t.Errorf("NewClient = %v, want %v", err, tt.wantErr)
			}
			if _, err := host.Write([]byte{0}); err == nil {
				t.Error("the connection is still open")
			}
		})
	}
}

// FuzzSession gives the host whatever bytes after an honest preamble.
func FuzzSession(f *testing.F) {
	f.Add(frame(0, frameWindowUpdate, 2, 1, 0))
	f.Add(append(frame(0, frameData, 2, 1, callHeader), "\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00"...))
	f.Add([]byte("nonsense"))
	f.Fuzz(func(t *testing.T, in []byte) {
		host, far := net.Pipe()
		go io.Copy(io.Discard, far) //nolint:errcheck // ends with the test
		go func() {
			io.WriteString(far, Hello{Protocol: Protocol, AgentVersion: "fuzz"}.String()) //nolint:errcheck // the client sees it
			far.Write(in)                                                                 //nolint:errcheck // the client sees it
			_ = far.Close()
		}()
		c, _, err := NewClient(t.Context(), host, Machine{})
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = c.Guest().MemoryInfo(t.Context(), &emptypb.Empty{})
		waitDone(t, c)
	})
}
