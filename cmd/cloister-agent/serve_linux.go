// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"

	"cloister/cmd/cloister-agent/internal/boot"
	"cloister/cmd/cloister-agent/internal/containers"
	"cloister/cmd/cloister-agent/internal/debug"
	"cloister/cmd/cloister-agent/internal/events"
	"cloister/cmd/cloister-agent/internal/forward"
	"cloister/cmd/cloister-agent/internal/guest"
	"cloister/cmd/cloister-agent/internal/names"
	"cloister/cmd/cloister-agent/internal/reap"
	"cloister/cmd/cloister-agent/internal/sockets"
	"cloister/cmd/cloister-agent/internal/stdio"
	"cloister/cmd/cloister-agent/internal/tasks"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
)

const (
	// namespace is containerd's word; a guest has one. containerd's packages refuse a context
	// without a namespace. The host's namespaces are not sent: one guest serves one sandbox.
	namespace = "cloister"
	crunPath  = "/usr/bin/crun"
)

// run boots the guest and serves the host until it hangs up. An error means that the guest could
// not become ready; the host sees it as the end of the console's text.
func run(ctx context.Context) error {
	hello := guestapi.Hello{Protocol: guestapi.Protocol, AgentVersion: version, InitAt: boot.Uptime()}
	// Before anything is started: a child that ends while nobody reaps stays a zombie for good.
	reap.Start()
	port, err := openPort(hello)
	if err != nil {
		return err
	}
	queue := events.New()
	users, err := boot.Users()
	if err != nil {
		return err
	}
	streams := stdio.NewRegistry(users.Root())
	table := containers.NewTable(guestapi.Bundles)
	monitor := &reap.Monitor{}
	open := sockets.NewRegistry()
	// The server is ready before the hello: the host sends its first call right after it.
	server, err := newServer(ctx, monitor, queue, streams, table, open, users)
	if err != nil {
		return err
	}
	// After the server is made, so that what is measured and given back includes its memory.
	if err := guest.KeepFree(); err != nil {
		return err
	}
	if hello.MemUsedKiB, err = guest.MemUsedKiB(); err != nil {
		return err
	}
	hello.Uptime = boot.Uptime()
	session, err := guestapi.Serve(port, hello)
	if err != nil {
		return err
	}
	return accept(ctx, session, server, outlets{monitor, streams, open})
}

// openPort makes the guest ready and opens the port to the host. A guest that is to be saved gets
// there a second time, by an agent that finds all but the share done. An agent that was started
// anew inherits the port: to open it again would fail while it is open, since a virtio-serial port
// has one opener at a time.
func openPort(hello guestapi.Hello) (*os.File, error) {
	port, err := boot.InheritedPort()
	if err != nil {
		return nil, err
	}
	if port != nil {
		return port, guest.Awake()
	}
	if err := boot.Prepare(); err != nil {
		return nil, err
	}
	if port, err = boot.OpenPort(guestapi.PortName); err != nil {
		return nil, err
	}
	template, err := boot.IsTemplate()
	if err != nil || !template {
		return port, err
	}
	if err := guest.KeepFree(); err != nil {
		return nil, err
	}
	if hello.MemUsedKiB, err = guest.MemUsedKiB(); err != nil {
		return nil, err
	}
	hello.Uptime = boot.Uptime()
	// AwaitWake returns only with an error: after the wake, a new agent runs.
	return nil, guest.AwaitWake(port, hello)
}

// newServer makes the server of both services. Registration is the last step: no call can arrive
// before the session accepts streams.
func newServer(ctx context.Context, monitor *reap.Monitor, queue *events.Queue, streams *stdio.Registry,
	table *containers.Table, open *sockets.Registry, users guestapi.UserNamespace,
) (*ttrpc.Server, error) {
	server, err := ttrpc.NewServer(ttrpc.WithUnaryServerInterceptor(intercept))
	if err != nil {
		return nil, fmt.Errorf("make server: %w", err)
	}
	crun, err := boot.SealRuntime(crunPath)
	if err != nil {
		return nil, err
	}
	service, err := tasks.New(namespaces.WithNamespace(ctx, namespace), monitor, crun, queue, streams, table)
	if err != nil {
		return nil, err
	}
	taskapi.RegisterTTRPCTaskService(server, service)
	guestv1.RegisterTTRPCGuestService(server, guest.New(monitor, queue, table, open, users))
	return server, nil
}

// intercept puts containerd's namespace into the context, and errors into
// their wire form.
func intercept(ctx context.Context, decode ttrpc.Unmarshaler, _ *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	resp, err := method(namespaces.WithNamespace(ctx, namespace), decode)
	return resp, errgrpc.ToGRPC(err) //nolint:forbidigo // this is the guest's interceptor
}

// outlets are where the host's streams end, except for the control stream. Only the host opens
// streams, so there is no way back for a container to reach another outlet.
type outlets struct {
	monitor *reap.Monitor
	streams *stdio.Registry
	sockets *sockets.Registry
}

// accept hands out the host's streams until the session ends. The accept loop must not block: a
// stream whose name is late would hold up all others, so each is read by a goroutine of its own.
func accept(ctx context.Context, session *yamux.Session, server *ttrpc.Server, to outlets) error {
	control := &controlListener{conns: make(chan net.Conn, 1), closed: make(chan struct{})}
	go serveControl(ctx, server, control)
	defer control.Close()
	for {
		stream, err := session.AcceptStream()
		if errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrSessionShutdown) {
			return nil // the host hung up
		}
		if err != nil {
			return fmt.Errorf("accept a stream: %w", err)
		}
		go handOut(ctx, stream, control, to)
	}
}

// handOut reads the stream's name and gives the stream to what it is for. The reader of the stream
// closes it; a stream without a valid name is closed here.
func handOut(ctx context.Context, stream *yamux.Stream, control *controlListener, to outlets) {
	name, err := guestapi.ReadStreamName(stream)
	if err != nil {
		log.G(ctx).WithError(err).Warn("stream refused")
		_ = stream.Close()
		return
	}
	if token, ok := name.Token(); ok {
		to.streams.Put(token, stream)
		return
	}
	if token, ok := name.Socket(); ok {
		to.sockets.Serve(stream, token)
		return
	}
	if name == guestapi.NamesStream {
		names.Serve(ctx, stream)
		return
	}
	if name == guestapi.DebugStream {
		debug.Serve(ctx, to.monitor, stream)
		return
	}
	if port, ok := name.Port(); ok {
		forward.Serve(ctx, stream, port)
		return
	}
	// ParseStreamName has refused every other name, so this is the control stream.
	control.conns <- stream
}

// serveControl serves calls until the session ends. net.ErrClosed is the ordinary end.
func serveControl(ctx context.Context, server *ttrpc.Server, l net.Listener) {
	if err := server.Serve(ctx, l); err != nil && !errors.Is(err, net.ErrClosed) {
		log.G(ctx).WithError(err).Error("control stream")
	}
}

// controlListener gives the control stream to ttrpc's server. The session has one; ttrpc wants a
// listener.
type controlListener struct {
	conns  chan net.Conn
	closed chan struct{}
}

// Accept blocks until there is a control stream or Close.
func (l *controlListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close is called by accept alone, once; the select makes a second call harmless.
func (l *controlListener) Close() error {
	select {
	case <-l.closed:
	default:
		close(l.closed)
	}
	return nil
}

// Addr is part of net.Listener; ttrpc uses it in log lines only.
func (l *controlListener) Addr() net.Addr { return &net.UnixAddr{Name: guestapi.PortName, Net: "unix"} }
