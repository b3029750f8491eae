// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/digitalocean/go-qemu/qmp"
)

// commandTimeout bounds every command; QEMU answers from its main loop, which a
// host under load may keep waiting.
const commandTimeout = 20 * time.Second

var errMonitorClosed = fmt.Errorf("monitor is closed: %w", errdefs.ErrUnavailable)

// monitor adapts go-qemu's monitor, which knows no contexts and no reply ids: a
// command that does not end in time closes it, since the late reply would be
// taken for the next command's.
type monitor struct {
	sock *qmp.SocketMonitor
	// events hands each event to the process; called from one goroutine.
	events func(qmp.Event)
	// drained is closed when no event comes any more.
	drained chan struct{}

	// mu makes commands wait for each other.
	mu sync.Mutex
	// closing makes Disconnect run once.
	closing sync.Once
}

// connect shakes hands. It returns only when the socket answers or ends: whoever
// calls it ends the other side when time is up.
func connect(sock *qmp.SocketMonitor, events func(qmp.Event)) (*monitor, error) {
	if err := sock.Connect(); err != nil {
		return nil, err
	}
	ch, err := sock.Events(context.Background())
	if err != nil {
		return nil, err
	}
	m := &monitor{sock: sock, events: events, drained: make(chan struct{})}
	go m.drain(ch)
	return m, nil
}

// drain hands on events until the connection ends.
func (m *monitor) drain(events <-chan qmp.Event) {
	defer close(m.drained)
	for e := range events {
		m.events(e)
	}
}

// close ends the connection and every command on it.
func (m *monitor) close() {
	m.closing.Do(func() { _ = m.sock.Disconnect() })
}

// run executes a command that returns nothing, passing file along if there is one.
func (m *monitor) run(ctx context.Context, name string, args any, file *os.File) error {
	_, err := m.ask(ctx, name, args, file)
	return err
}

// ask executes a command and gives QEMU's answer, JSON. Commands are sent one after the other. When
// ctx ends or commandTimeout is over, the monitor is closed and every later command fails.
func (m *monitor) ask(ctx context.Context, name string, args any, file *os.File) ([]byte, error) {
	command, err := json.Marshal(qmp.Command{Execute: name, Args: args})
	if err != nil {
		return nil, fmt.Errorf("qmp %s: %w", name, err)
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("qmp %s: not sent: %w", name, err)
	}
	stop := context.AfterFunc(ctx, m.close)
	answer, err := m.sock.RunWithFile(command, file)
	if !stop() {
		return nil, fmt.Errorf("qmp %s: no answer, monitor closed: %w", name, ctx.Err())
	}
	if err != nil {
		return nil, fmt.Errorf("qmp %s: %w", name, m.cause(err))
	}
	return answer, nil
}

// cause tells an error of QEMU's, which go-qemu hands on as bare text, from an end
// of the connection, after which nothing on it can be trusted.
func (m *monitor) cause(err error) error {
	var (
		syntax *json.SyntaxError
		typ    *json.UnmarshalTypeError
		op     *net.OpError
	)
	if errors.As(err, &syntax) || errors.As(err, &typ) || errors.As(err, &op) || errors.Is(err, bufio.ErrTooLong) {
		m.close()
		return fmt.Errorf("%w: %w", errMonitorClosed, err)
	}
	return err
}
