// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"
)

// Stream is one direction of data of a process: the host either reads it to
// EOF or writes it and then closes it.
type Stream struct {
	mux     *yamux.Stream
	once    sync.Once
	closed  atomic.Bool
	reading sync.Mutex
}

// OpenStream opens the stream of a token, which a later Create or Exec names. The caller closes it.
// It is opened before that call, so that no byte of the process can come before its reader.
func (c *Client) OpenStream(ctx context.Context, token Token) (*Stream, error) {
	if _, err := ParseToken(string(token)); err != nil {
		return nil, err
	}
	conn, err := c.open(ctx, StreamName(ioPrefix+token))
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", token, err)
	}
	return &Stream{mux: conn}, nil
}

// DialTCP connects to a port of the guest's localhost, which is 127.0.0.1 or else ::1. The caller
// closes it, which ends the far end's connection; CloseWrite ends what that reads. ErrRefused means
// that the guest lives and nobody listens.
func (c *Client) DialTCP(ctx context.Context, port uint16) (*Call, error) {
	s, err := c.connect(ctx, portName(port))
	if errors.Is(err, ErrRefused) {
		err = fmt.Errorf("nobody listens there: %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("connect to port %d of the guest: %w", port, err)
	}
	return &Call{s}, nil
}

// Call is a stream of two directions on which the guest can tell the host's last word from its end.
// The end of a yamux stream cannot say both: so the last word is an empty frame.
type Call struct{ *Stream }

// Write sends frames, and blocks while the guest's window is full.
func (c *Call) Write(p []byte) (int, error) { return Frames{FrameInput, c.Stream}.Write(p) }

// CloseWrite says that nothing more will be said. Reading goes on.
func (c *Call) CloseWrite() error { return WriteFrame(c.Stream, FrameInput, nil) }

// AcceptSocket waits until somebody in the guest connects to the listener of a token that
// PrepareContainer was given. The caller closes the stream; CloseWrite ends what the guest's end
// reads.
func (c *Client) AcceptSocket(ctx context.Context, token Token) (*Stream, error) {
	s, err := c.connect(ctx, StreamName(socketPrefix+token))
	if err != nil {
		return nil, fmt.Errorf("accept on socket %s of the guest: %w", token, err)
	}
	return s, nil
}

// ErrRefused means that the guest is reachable but did not accept the connection.
var ErrRefused = fmt.Errorf("refused: %w", errdefs.ErrUnavailable)

// connect opens a stream and waits for Connected. A context that ends while the guest connects
// closes the stream: the guest gives up, too.
func (c *Client) connect(ctx context.Context, name StreamName) (*Stream, error) {
	conn, err := c.open(ctx, name)
	if err != nil {
		return nil, err
	}
	s := &Stream{mux: conn}
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	var answer [1]byte
	_, err = io.ReadFull(conn, answer[:])
	// stop is false if the deadline has been set: the stream would fail at its next read.
	if err == nil && stop() && answer[0] == Connected {
		return s, nil
	}
	_ = s.Close()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if reason := c.guard.reason.Load(); reason != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrUnavailable, *reason)
	}
	return nil, ErrRefused
}

// Connected is the first byte that the agent sends on a tcp/ or unix/ stream when there is a
// connection; when there is none it closes the stream.
const Connected = '+'

// Read gives what the guest sent; io.EOF when the guest has closed its side.
func (s *Stream) Read(p []byte) (int, error) {
	s.reading.Lock()
	defer s.reading.Unlock()
	if s.closed.Load() {
		return 0, net.ErrClosed
	}
	return s.mux.Read(p)
}

// Write blocks while the guest's window is full.
func (s *Stream) Write(p []byte) (int, error) { return s.mux.Write(p) }

// CloseWrite lets the guest read EOF. Reading goes on.
func (s *Stream) CloseWrite() error { return s.mux.Close() }

// Close lets the guest read EOF and drops what it still sends, so that a writer in the guest is not
// held up by a reader that has gone. Who reads or writes gets an error, whatever the guest does. It
// returns at once and may be repeated.
func (s *Stream) Close() error {
	s.once.Do(func() {
		s.closed.Store(true)
		_ = s.mux.SetReadDeadline(time.Unix(1, 0)) // who reads returns
		go s.drop()
	})
	return nil
}

// drop ends with the guest's EOF or with the session. A guest that takes nothing at all holds it
// up, and nobody else. A stream that is closed and not read to its end would keep its window full,
// and with it a writer in the guest.
func (s *Stream) drop() {
	_ = s.mux.Close() // who writes returns
	s.reading.Lock()  // nobody reads from here on
	_ = s.mux.SetReadDeadline(time.Time{})
	s.reading.Unlock()
	_, _ = io.Copy(io.Discard, s.mux)
}

type opened struct {
	stream *yamux.Stream
	err    error
}

// open opens a stream and sends its name, both of which may block in yamux. A guest that accepts no
// streams fills yamux's backlog; then OpenStream blocks without a limit, and ctx bounds the caller
// alone.
func (c *Client) open(ctx context.Context, name StreamName) (*yamux.Stream, error) {
	if n := c.session.NumStreams(); n >= MaxStreams {
		return nil, fmt.Errorf("%d streams are open: %w", n, errdefs.ErrResourceExhausted)
	}
	done := make(chan opened)
	go c.openMux(ctx, name, done)
	select {
	case o := <-done:
		if o.err == nil {
			return o.stream, nil
		}
		if reason := c.guard.reason.Load(); reason != nil {
			o.err = *reason
		}
		return nil, fmt.Errorf("%w: %w", errdefs.ErrUnavailable, o.err)
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// openMux may outlive its caller. A stream that nobody waits for is closed.
func (c *Client) openMux(ctx context.Context, name StreamName, done chan<- opened) {
	stream, err := c.session.OpenStream()
	if err == nil {
		if _, err = stream.Write(name.encode()); err != nil {
			_ = stream.Close()
		}
	}
	select {
	case done <- opened{stream, err}:
	case <-ctx.Done(): // nobody waits any more
		if err == nil {
			_ = (&Stream{mux: stream}).Close()
		}
	}
}
