// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"sync"
	"time"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

const (
	// drainTimeout bounds the wait for clients that still read an answer when the daemon stops.
	drainTimeout = time.Second
	// firstClientTimeout ends a daemon that nobody came to: start was killed before it could say
	// the address.
	firstClientTimeout = 2 * time.Minute
)

// Daemon is the process that serves one group of tasks.
type Daemon struct {
	Request
	Group string // what the tasks have in common; the first task's id when there is no annotation
	// Mounts is the mount namespace that start was called in: the host's, where hooks run. The
	// daemon's own is a slave of it.
	Mounts *os.File

	socket string
	// hide removes the socket's name, once: a new daemon of the group may have it from then on.
	hide   func() error
	cancel context.CancelFunc

	mu    sync.Mutex
	ready *os.File     // nil once start has been told
	conns *connections // nil until it serves
}

// serve is the daemon's main. It ends with the socket's name gone, and with the machine, since
// nothing of a sandbox outlives its daemon.
func (cfg Config) serve(ctx context.Context, a arguments) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &Daemon{
		Request: a.request, Group: a.group, socket: a.socket, cancel: cancel,
		hide:  sync.OnceValue(func() error { return removeSocket(a.socket) }),
		ready: os.NewFile(fdReady, "ready"), Mounts: os.NewFile(fdMounts, "mounts"),
	}
	// Inherited files must not reach QEMU and other children: Go sets the flag for what it opens
	// itself alone.
	for fd := fdSocket; fd <= fdMounts; fd++ {
		unix.CloseOnExec(fd)
	}
	log.L.Logger.SetOutput(&logPipe{})
	debug.SetGCPercent(40) // one daemon per sandbox: memory counts for more than the collector's time

	stopSignals := d.watchSignals(ctx)
	defer stopSignals()
	err := d.enter()
	if err == nil {
		err = cfg.Serve(ctx, d)
	}
	return errors.Join(d.tell(err), d.hide())
}

// enter settles the process where it was started: host mounts are seen, ours are not, and no folder
// is held. Slave, and not private: volumes that the host mounts later must arrive. The root folder
// keeps no bundle's file system busy.
func (d *Daemon) enter() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make the daemon's mounts a slave of the host's: %w", err)
	}
	// As for runc's shim: QEMU inherits the cookie, and no other workload runs on its core's other
	// thread.
	if os.Getenv("SCHED_CORE") != "" {
		if err := unix.Prctl(unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_CREATE, 0, unix.PR_SCHED_CORE_SCOPE_PROCESS_GROUP, 0); err != nil {
			return fmt.Errorf("core scheduling was asked for by SCHED_CORE: %w", err)
		}
	}
	return os.Chdir("/")
}

// tell gives start its answer, once; later errors go to the log and the exit status. An error of
// Serve before it serves thus becomes the error that the user of the engine reads.
func (d *Daemon) tell(err error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.ready == nil {
		return err
	}
	defer func() {
		_ = d.ready.Close()
		d.ready = nil
	}()
	if err == nil {
		// A start that was killed has told nobody the address: no client would ever come.
		if _, werr := d.ready.WriteString(readyOK); werr != nil {
			return fmt.Errorf("tell start that the daemon is ready: %w", werr)
		}
		return nil
	}
	_, werr := d.ready.WriteString(err.Error())
	return errors.Join(err, werr)
}

// Stop ends the daemon: its socket's name is gone, the context of Serve is done, and ServeTTRPC
// returns after the answers under way are out. The name goes first: a client that has the answer to
// its Shutdown may start the next daemon of the group at once, and must not find this one. It may
// be called more than once.
func (d *Daemon) Stop() {
	_ = d.hide() // serve gives the error
	d.cancel()
}

// Clients are the pids of the processes that are connected now, such as the engine and those that
// stand on the host for processes of the sandbox.
func (d *Daemon) Clients() []int {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.conns == nil {
		return nil
	}
	return d.conns.clients()
}

// ServeTTRPC tells start that the daemon is ready, and serves until ctx is done. register adds the
// services; intercept may be nil. It returns when the clients have hung up, as containerd does
// after the answer to Shutdown, or a second later; then the socket is gone and no answer is sent
// any more.
func (d *Daemon) ServeTTRPC(ctx context.Context, intercept ttrpc.UnaryServerInterceptor, register func(*ttrpc.Server)) error {
	lonely := time.AfterFunc(firstClientTimeout, func() {
		log.G(ctx).Warn("no client has connected since the daemon was started: ending")
		d.Stop()
	})
	defer lonely.Stop()
	conns := newConnections(func() { lonely.Stop() })
	d.mu.Lock()
	d.conns = conns
	d.mu.Unlock()
	opts := []ttrpc.ServerOpt{ttrpc.WithServerHandshaker(conns)}
	if intercept != nil {
		opts = append(opts, ttrpc.WithUnaryServerInterceptor(intercept))
	}
	server, err := ttrpc.NewServer(opts...)
	if err != nil {
		return err
	}
	register(server)
	l, err := d.listener()
	if err != nil {
		return err
	}
	// A call that asked for the stop must still be answered: its context does not end with ours.
	calls, cancelCalls := context.WithCancel(context.WithoutCancel(ctx))
	defer cancelCalls()
	served := make(chan error, 1)
	go func() { served <- server.Serve(calls, l) }()
	// Clients connect as soon as they know the address; the server accepts by now.
	if err := d.tell(nil); err != nil {
		return errors.Join(err, server.Close())
	}
	select {
	case err := <-served:
		return fmt.Errorf("serve %q: %w", d.socket, err)
	case <-ctx.Done():
	}
	err = d.hide() // first, so that no start finds a daemon that leaves
	drain, cancelDrain := context.WithTimeout(calls, drainTimeout)
	defer cancelDrain()
	conns.wait(drain)
	return errors.Join(err, server.Close())
}

// listener is the inherited socket. start made it, so that a client that connects at once waits in
// its backlog.
func (d *Daemon) listener() (net.Listener, error) {
	f := os.NewFile(fdSocket, d.socket)
	l, err := net.FileListener(f)
	if err := errors.Join(err, f.Close()); err != nil {
		return nil, fmt.Errorf("inherited socket: %w", err)
	}
	return l, nil
}

// watchSignals turns SIGTERM and SIGINT into Stop, keeps SIGPIPE from killing the daemon, and
// writes stacks to the log on SIGUSR1. It must not ignore a signal instead: children would inherit
// that.
func (d *Daemon) watchSignals(ctx context.Context) (stop func()) {
	signals := make(chan os.Signal, 16)
	signal.Notify(signals, unix.SIGTERM, unix.SIGINT, unix.SIGPIPE, unix.SIGHUP, unix.SIGUSR1)
	done := make(chan struct{})
	go d.handleSignals(ctx, signals, done)
	return func() {
		signal.Stop(signals)
		close(signals)
		<-done
	}
}

// handleSignals runs until the channel is closed. SIGHUP and SIGPIPE are received and do nothing.
func (d *Daemon) handleSignals(ctx context.Context, signals <-chan os.Signal, done chan<- struct{}) {
	defer close(done)
	for s := range signals {
		switch s {
		case unix.SIGTERM, unix.SIGINT:
			log.G(ctx).WithField("signal", s).Info("stopping")
			d.Stop()
		case unix.SIGUSR1:
			log.G(ctx).Infof("stacks:\n%s", stacks())
		}
	}
}
