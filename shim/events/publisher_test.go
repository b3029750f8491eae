// SPDX-License-Identifier: Apache-2.0

package events_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	forwardapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"

	"cloister/shim/events"
)

// containerd is the far end: the real service behind a real ttrpc server, which can go away and
// come back.
type containerd struct {
	t      *testing.T
	path   string
	server *ttrpc.Server

	mu     sync.Mutex
	got    []*types.Envelope
	refuse func(*types.Envelope) error
	want   int
	full   chan struct{}
}

func newContainerd(t *testing.T, want int) *containerd {
	t.Helper()
	c := &containerd{t: t, path: filepath.Join(t.TempDir(), "ttrpc"), want: want, full: make(chan struct{})}
	t.Cleanup(c.stop)
	return c
}

func (c *containerd) start() {
	c.t.Helper()
	l, err := (&net.ListenConfig{}).Listen(c.t.Context(), "unix", c.path)
	if err != nil {
		c.t.Fatal(err)
	}
	c.server, err = ttrpc.NewServer()
	if err != nil {
		c.t.Fatal(err)
	}
	forwardapi.RegisterTTRPCEventsService(c.server, c)
	go func() { _ = c.server.Serve(context.Background(), l) }()
}

func (c *containerd) stop() {
	if c.server != nil {
		c.server.Close()
		c.server = nil
	}
}

func (c *containerd) Forward(_ context.Context, r *forwardapi.ForwardRequest) (*emptypb.Empty, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		if err := c.refuse(r.GetEnvelope()); err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
	}
	c.got = append(c.got, r.GetEnvelope())
	if len(c.got) == c.want {
		close(c.full)
	}
	return &emptypb.Empty{}, nil
}

func (c *containerd) wait() []*types.Envelope {
	c.t.Helper()
	select {
	case <-c.full:
	case <-time.After(2 * time.Minute):
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.got) < c.want {
		c.t.Fatalf("containerd got %d events, want %d", len(c.got), c.want)
	}
	return c.got
}

func exit(n int) *eventsapi.TaskExit {
	return &eventsapi.TaskExit{ContainerID: "c", ID: fmt.Sprint(n), ExitStatus: uint32(n)}
}

// numbers are the exit statuses of the events in the order of their first arrival: a call that was
// cut off may still be carried out by a containerd that is going, after its repetition has arrived.
func numbers(t *testing.T, got []*types.Envelope) []int {
	t.Helper()
	var out []int
	for _, e := range got {
		v, err := typeurl.UnmarshalAny(e.GetEvent())
		if err != nil {
			t.Fatal(err)
		}
		n := int(v.(*eventsapi.TaskExit).GetExitStatus())
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	return out
}

func checkOrder(t *testing.T, got []int, want int) {
	t.Helper()
	if len(got) != want {
		t.Fatalf("got %d distinct events, want %d", len(got), want)
	}
	for i, n := range got {
		if n != i {
			t.Fatalf("event %d is number %d: order lost", i, n)
		}
	}
}

func TestPublish(t *testing.T) {
	t.Parallel()
	c := newContainerd(t, 1)
	c.start()
	p := events.New(t.Context(), "unix://"+c.path, "k8s.io")
	if err := p.Publish(t.Context(), &eventsapi.TaskOOM{ContainerID: "c"}); err != nil {
		t.Fatal(err)
	}
	e := c.wait()[0]
	if e.GetNamespace() != "k8s.io" || e.GetTopic() != "/tasks/oom" || time.Since(e.GetTimestamp().AsTime()) > time.Minute {
		t.Errorf("envelope = %v, want namespace k8s.io, topic /tasks/oom and the time", e)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Errorf("Close = %v", err)
	}
	if err := p.Publish(t.Context(), exit(0)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Publish after Close = %v, want net.ErrClosed", err)
	}
	if err := p.Publish(t.Context(), "no event"); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Publish of a string = %v, want invalid argument", err)
	}
}

// TestRestart takes containerd away in the middle, twice: nothing is lost and the order holds.
func TestRestart(t *testing.T) {
	t.Parallel()
	const n = 300
	c := newContainerd(t, n)
	p := events.New(t.Context(), c.path, "default") // containerd is not there yet
	for i := range n {
		switch i {
		case 50, 200:
			c.start()
		case 120:
			for { // some have arrived: this is a restart, not a late start
				c.mu.Lock()
				arrived := len(c.got)
				c.mu.Unlock()
				if arrived > 60 {
					break
				}
				time.Sleep(time.Millisecond)
			}
			c.stop()
		}
		if err := p.Publish(t.Context(), exit(i)); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	if err := p.Close(ctx); err != nil {
		t.Fatalf("Close = %v, want everything sent", err)
	}
	checkOrder(t, numbers(t, c.wait()), n)
}

// TestRefusedEventDoesNotStopOthers has containerd refuse one event by itself: the others arrive.
func TestRefusedEventDoesNotStopOthers(t *testing.T) {
	t.Parallel()
	c := newContainerd(t, 2)
	refused := 0
	c.refuse = func(e *types.Envelope) error {
		if e.GetTopic() == "/tasks/oom" {
			refused++
			return errdefs.ErrInvalidArgument
		}
		return nil
	}
	c.start()
	p := events.New(t.Context(), c.path, "default")
	for _, e := range []any{exit(0), &eventsapi.TaskOOM{}, exit(1)} {
		if err := p.Publish(t.Context(), e); err != nil {
			t.Fatal(err)
		}
	}
	checkOrder(t, numbers(t, c.wait()), 2)
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
	if refused != 3 {
		t.Errorf("the refused event was sent %d times, want 3", refused)
	}
}

// TestUnavailableContainerdIsRetried has a containerd that is up but not ready: that is no refusal.
func TestUnavailableContainerdIsRetried(t *testing.T) {
	t.Parallel()
	c := newContainerd(t, 1)
	left := 5
	c.refuse = func(*types.Envelope) error {
		if left--; left >= 0 {
			return errdefs.ErrUnavailable
		}
		return nil
	}
	c.start()
	p := events.New(t.Context(), c.path, "default")
	if err := p.Publish(t.Context(), exit(0)); err != nil {
		t.Fatal(err)
	}
	c.wait()
	if err := p.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestFullQueue publishes more than fits: exits stay, what else there is goes, oldest first.
func TestFullQueue(t *testing.T) {
	t.Parallel()
	const kept = 100
	c := newContainerd(t, kept)
	var others []string
	c.refuse = func(e *types.Envelope) error {
		if e.GetTopic() == "/tasks/oom" {
			v, err := typeurl.UnmarshalAny(e.GetEvent())
			if err != nil {
				return err
			}
			others = append(others, v.(*eventsapi.TaskOOM).GetContainerID())
			return errdefs.ErrInvalidArgument
		}
		return nil
	}
	p := events.New(t.Context(), c.path, "default")
	for i := range kept {
		if err := p.Publish(t.Context(), exit(i)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 5000 {
		if err := p.Publish(t.Context(), &eventsapi.TaskOOM{ContainerID: fmt.Sprint(i)}); err != nil {
			t.Fatal(err)
		}
	}
	c.start()
	checkOrder(t, numbers(t, c.wait()), kept)
	ctx, cancel := context.WithCancel(t.Context())
	cancel() // the thousands of refused ones are not waited for
	if err := p.Close(ctx); err == nil || !strings.Contains(err.Error(), "were not sent") {
		t.Errorf("Close = %v, want the number of events left", err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(others) > 0 && others[0] != fmt.Sprint(5000+kept-4096) {
		t.Errorf("first event after the exits is %s, want %d: the oldest go first", others[0], 5000+kept-4096)
	}
}

func TestNoAddress(t *testing.T) {
	t.Parallel()
	p := events.New(t.Context(), "", "default")
	if err := p.Publish(t.Context(), exit(0)); err != nil {
		t.Fatal(err)
	}
	if err := p.Close(t.Context()); err != nil {
		t.Errorf("Close = %v, want nil: no address was given", err)
	}
}
