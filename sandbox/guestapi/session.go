// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"fmt"
	"io"
	"time"

	"github.com/hashicorp/yamux"
)

const (
	// backlog is how many streams may wait for the agent to take them.
	backlog = 64
	// window is yamux's smallest: what one stream may hold in memory.
	window = 256 << 10
	// StreamMemory is the most that one open stream costs the host: its window, and as much again
	// because the buffer that yamux keeps it in grows by doubling, and what belongs to the stream.
	StreamMemory = 2*window + 32<<10
	// MaxStreams is how many streams may be open at once. Only the host opens streams, two or three
	// for each process that has stdio and one for each connection that is carried into the guest.
	// So a guest may hold at most MaxStreams*StreamMemory = 544 MiB of the host's memory, and only
	// if clients have opened all streams and read none of them; a stream whose client reads holds
	// nothing for long. That memory is the shim's and counts where the shim runs, which is the
	// engine's cgroup unless the engine names one (ShimCgroup): a cgroup's memory belongs to whole
	// processes, so the sandbox's cgroup could count it only if a process of its own carried the
	// streams, which costs every byte of stdio one copy and two switches more.
	MaxStreams = 1024
)

// muxConfig has no clock: a guest may be stopped, starved or slow for as long
// as it likes. Who waits for it has a context.
func muxConfig() *yamux.Config {
	return &yamux.Config{
		AcceptBacklog:          backlog,
		KeepAliveInterval:      time.Hour, // checked, but keep-alive is off
		ConnectionWriteTimeout: 10 * 365 * 24 * time.Hour,
		MaxStreamWindowSize:    window,
		LogOutput:              io.Discard,
	}
}

// Serve says hello on the agent's end of the channel and gives the session whose streams the agent
// accepts. Closing the session closes conn. It is for the agent. It returns before the host has
// read the hello.
func Serve(conn io.ReadWriteCloser, h Hello) (*yamux.Session, error) {
	if _, err := io.WriteString(conn, h.String()); err != nil {
		return nil, fmt.Errorf("say hello: %w", err)
	}
	return yamux.Server(&joiner{ReadWriteCloser: conn}, muxConfig())
}
