// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
)

// floodTold is after how many events the liar says so on the console.
const floodTold = 20_000

// neighbour is a container of another sandbox, in the same namespace of the engine.
const neighbour = "liars-neighbour"

// liar is an agent that says of every call that it is done, and once a container has started
// reports its exit, exits of others and OOM events without end.
type liar struct {
	console io.Writer

	once    sync.Once
	id      string
	started chan struct{}
}

// lie serves the contract on the port.
func lie(port io.ReadWriteCloser, console io.Writer) error {
	l := &liar{console: console, started: make(chan struct{})}
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	guestv1.RegisterTTRPCGuestService(server, guestHalf{l})
	taskapi.RegisterTTRPCTaskService(server, taskHalf{liar: l})
	return serveMux(port, func(name guestapi.StreamName, conn net.Conn) {
		if name == guestapi.ControlStream {
			_ = server.Serve(context.Background(), &single{conn: conn})
		}
	})
}

type guestHalf struct{ *liar }

func done() (*emptypb.Empty, error) { return &emptypb.Empty{}, nil }

func (guestHalf) Configure(context.Context, *guestv1.ConfigureRequest) (*emptypb.Empty, error) {
	return done()
}

func (guestHalf) SetTime(context.Context, *guestv1.SetTimeRequest) (*emptypb.Empty, error) {
	return done()
}

func (guestHalf) ApplyNetwork(context.Context, *guestv1.Network) (*emptypb.Empty, error) {
	return done()
}

func (guestHalf) PrepareSandbox(context.Context, *guestv1.PrepareSandboxRequest) (*emptypb.Empty, error) {
	return done()
}

func (guestHalf) RemoveContainer(context.Context, *guestv1.RemoveContainerRequest) (*emptypb.Empty, error) {
	return done()
}

func (guestHalf) Notice(context.Context, *guestv1.NoticeRequest) (*emptypb.Empty, error) {
	return done()
}
func (guestHalf) Shutdown(context.Context, *emptypb.Empty) (*emptypb.Empty, error) { return done() }
func (guestHalf) MemoryInfo(context.Context, *emptypb.Empty) (*guestv1.MemoryInfoResponse, error) {
	return &guestv1.MemoryInfoResponse{}, nil
}

func (guestHalf) FindDisk(context.Context, *guestv1.FindDiskRequest) (*guestv1.FindDiskResponse, error) {
	return nil, errors.New("no disk")
}

func (g guestHalf) PrepareContainer(_ context.Context, r *guestv1.PrepareContainerRequest) (*guestv1.PrepareContainerResponse, error) {
	g.id = r.GetId()
	return &guestv1.PrepareContainerResponse{Bundle: "/nowhere"}, nil
}

// Events gives as many as an answer may have, at once.
func (g guestHalf) Events(ctx context.Context, r *guestv1.EventsRequest) (*guestv1.EventsResponse, error) {
	select {
	case <-g.started:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	out := &guestv1.EventsResponse{}
	for n := range uint64(guestapi.MaxEvents) {
		seq := r.GetAfter() + n + 1
		topic, body := g.event(seq)
		packed, err := anypb.New(body)
		if err != nil {
			return nil, err
		}
		out.Events = append(out.Events, &guestv1.Event{Seq: seq, Topic: topic, Event: packed})
		if seq == floodTold {
			fmt.Fprintf(g.console, "test guest: %d events\n", seq)
		}
	}
	return out, nil
}

func (l *liar) event(seq uint64) (string, proto.Message) {
	switch seq % 6 {
	case 0:
		return "/tasks/oom", &eventsapi.TaskOOM{ContainerID: l.id}
	case 1:
		return "/tasks/exit", &eventsapi.TaskExit{ContainerID: l.id, ID: l.id, ExitStatus: 7}
	case 2:
		return "/tasks/exit", &eventsapi.TaskExit{ContainerID: l.id, ID: fmt.Sprintf("unknown%d", seq)}
	case 3:
		return "/tasks/exit", &eventsapi.TaskExit{ContainerID: neighbour, ID: neighbour, ExitStatus: 7}
	case 4:
		return "/tasks/oom", &eventsapi.TaskOOM{ContainerID: neighbour}
	default:
		return "/tasks/oom", &eventsapi.TaskOOM{ContainerID: fmt.Sprintf("unknown%d", seq)}
	}
}

type taskHalf struct {
	taskapi.TTRPCTaskService
	*liar
}

func (taskHalf) Create(context.Context, *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	return &taskapi.CreateTaskResponse{Pid: 1}, nil
}

func (t taskHalf) Start(context.Context, *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	t.once.Do(func() { close(t.started) })
	return &taskapi.StartResponse{Pid: 1}, nil
}

func (taskHalf) Kill(context.Context, *taskapi.KillRequest) (*emptypb.Empty, error) { return done() }

func (taskHalf) CloseIO(context.Context, *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	return done()
}

func (taskHalf) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	return &taskapi.DeleteResponse{}, nil
}

// single is a listener of one connection.
type single struct {
	conn net.Conn
	once sync.Once
}

func (s *single) Accept() (conn net.Conn, err error) {
	s.once.Do(func() { conn = s.conn })
	if conn == nil {
		select {} // until the guest ends
	}
	return conn, nil
}
func (s *single) Close() error   { return nil }
func (s *single) Addr() net.Addr { return &net.UnixAddr{} }
