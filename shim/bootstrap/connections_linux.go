// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"maps"
	"net"
	"slices"
	"sync"

	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// connections counts the connections of a server. ttrpc's own Shutdown takes a connection for idle
// while its call runs, and closes it before the answer. So a daemon that is told to leave waits
// here until its clients have hung up.
type connections struct {
	first func() // called when the first client has come

	mu   sync.Mutex
	n    int
	pids map[int]int   // how many connections a process has, by its pid
	left chan struct{} // closed when a client has left
}

func newConnections(first func()) *connections {
	return &connections{first: sync.OnceFunc(first), pids: map[int]int{}, left: make(chan struct{})}
}

// Handshake lets in who has the daemon's uid, and no other local user: whoever may call the task
// API can start containers.
func (c *connections) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	conn, info, err := ttrpc.UnixSocketRequireSameUser().Handshake(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	c.first()
	pid := 0
	if cred, ok := info.(*unix.Ucred); ok {
		pid = int(cred.Pid)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	c.pids[pid]++
	return &connection{Conn: conn, leave: sync.OnceFunc(func() { c.leave(pid) })}, info, nil
}

// clients are the pids of the processes that are connected, as they were when they connected.
func (c *connections) clients() []int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.pids))
}

// leave counts one client less and wakes who waits.
func (c *connections) leave(pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
	if c.pids[pid]--; c.pids[pid] == 0 {
		delete(c.pids, pid)
	}
	close(c.left)
	c.left = make(chan struct{})
}

// wait returns when all clients have left, or with ctx.
func (c *connections) wait(ctx context.Context) {
	for {
		c.mu.Lock()
		n, left := c.n, c.left
		c.mu.Unlock()
		if n == 0 {
			return
		}
		select {
		case <-left:
		case <-ctx.Done():
			return
		}
	}
}

// connection is a connection that is counted.
type connection struct {
	net.Conn
	leave func()
}

// Close may be called more than once; the connection is counted once.
func (c *connection) Close() error {
	c.leave()
	return c.Conn.Close()
}
