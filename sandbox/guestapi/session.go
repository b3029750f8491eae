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
	// MaxStreams is how many streams may be open at once; with window it
	// bounds the host's memory for one guest.
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

// Serve says hello on the agent's end of the channel and gives the session
// whose streams the agent accepts. Closing the session closes conn.
func Serve(conn io.ReadWriteCloser, h Hello) (*yamux.Session, error) {
	if _, err := io.WriteString(conn, h.String()); err != nil {
		return nil, fmt.Errorf("say hello: %w", err)
	}
	return yamux.Server(&joiner{ReadWriteCloser: conn}, muxConfig())
}
