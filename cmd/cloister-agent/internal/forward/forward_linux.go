// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"io"
	"net"
	"strconv"
	"time"

	"cloister/sandbox/guestapi"
)

const (
	// answer is how long a listener of the guest may take to accept.
	answer = 10 * time.Second
	// farewell is how long a server may say nothing after the client's last word: the client may be
	// gone, which the host learns when it speaks.
	farewell = time.Minute
)

// Serve carries a stream of the host to what listens on a port of localhost, until the server has
// ended or the client has gone. It closes the stream. The first byte on the stream tells the host
// that a listener has accepted; a stream that closes without it is a refused connection.
func Serve(ctx context.Context, stream io.ReadWriteCloser, port uint16) {
	defer stream.Close()
	conn, err := dial(ctx, port)
	if err != nil {
		return // the host reads it from the closed stream
	}
	defer conn.Close()
	if _, err := stream.Write([]byte{guestapi.Connected}); err != nil {
		return
	}
	// Two goroutines carry one connection. Each ends the other by closing what it reads from, so
	// neither is left behind.
	said, gone := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(gone)
		hear(stream, conn, said)
		_ = conn.Close()
	}()
	// Ends when the server has closed, or when nothing came for the farewell after the client's
	// last word.
	_, _ = io.Copy(stream, server{conn, said})
	_ = stream.Close() // the host ends its side as well
	// conn must not be closed while the other goroutine uses it.
	<-gone
}

// hear passes on what the client says until it has gone, and closes said at its last word. An empty
// frame is a half-close: the client has said its last word, and may still read.
func hear(stream io.Reader, conn *net.TCPConn, said chan<- struct{}) {
	for last := false; ; {
		frame, err := guestapi.ReadFrame(stream, guestapi.FrameInput)
		switch {
		case err != nil:
			return
		case len(frame.Data) > 0:
			_, _ = conn.Write(frame.Data) // a server that has closed does not want it
		case !last:
			last = true
			_ = conn.CloseWrite()
			// Without a deadline, a server that never closes would hold the stream, and one of the
			// host's few slots, for good.
			_ = conn.SetReadDeadline(time.Now().Add(farewell))
			close(said)
		}
	}
}

// server has more time for each thing it says after the client's last word. A download that goes on
// after the client's half-close is alive as long as it moves; only silence ends it.
type server struct {
	*net.TCPConn
	said <-chan struct{}
}

// Read gives what the server says.
func (s server) Read(p []byte) (int, error) {
	select {
	case <-s.said:
		_ = s.SetReadDeadline(time.Now().Add(farewell))
	default:
	}
	return s.TCPConn.Read(p)
}

// dial tries the families one after the other: a server may listen on one of them only. The order
// is that of most listeners. The error is that of the last family.
func dial(ctx context.Context, port uint16) (_ *net.TCPConn, err error) {
	d := net.Dialer{Timeout: answer}
	for _, address := range []string{"127.0.0.1", "::1"} {
		var conn net.Conn
		if conn, err = d.DialContext(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(int(port)))); err == nil {
			return conn.(*net.TCPConn), nil
		}
	}
	return nil, err
}
