// SPDX-License-Identifier: Apache-2.0

package bootstrap

import (
	"context"
	"net"
	"sync"

	"github.com/containerd/ttrpc"
)

// connections counts the connections of a server. ttrpc's own Shutdown takes a connection for idle
// while its call runs, and closes it before the answer. So a daemon that is told to leave waits
// here until its clients have hung up.
type connections struct {
	first func() // called when the first client has come

	mu   sync.Mutex
	n    int
	left chan struct{} // closed when a client has left
}

func newConnections(first func()) *connections {
	return &connections{first: sync.OnceFunc(first), left: make(chan struct{})}
}

// Handshake lets in who has the daemon's uid, and no other local user: whoever may call the task
// API can start containers.
func (c *connections) Handshake(ctx context.Context, conn net.Conn) (net.Conn, any, error) {
	conn, info, err := ttrpc.UnixSocketRequireSameUser().Handshake(ctx, conn)
	if err != nil {
		return nil, nil, err
	}
	c.first()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n++
	return &connection{Conn: conn, leave: sync.OnceFunc(c.leave)}, info, nil
}

// leave counts one client less and wakes who waits.
func (c *connections) leave() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n--
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
