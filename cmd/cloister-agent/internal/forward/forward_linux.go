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
	// farewell is how long a server may say nothing after the client's last word: the client may be gone.
	farewell = time.Minute
)

// Serve carries a stream of the host to what listens on a port of localhost, until both have ended. It closes the stream.
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
	received := make(chan struct{})
	go func() {
		defer close(received)
		_, _ = io.Copy(conn, stream)
		_ = conn.CloseWrite()
		_ = conn.SetReadDeadline(time.Now().Add(farewell))
		_, _ = io.Copy(io.Discard, stream) // what a server does not want that has closed
	}()
	_, _ = io.Copy(stream, server{conn, received})
	_ = stream.Close() // the host ends its side as well
	<-received
}

// server has more time for each thing it says after the client's last word.
type server struct {
	*net.TCPConn
	received <-chan struct{}
}

// Read gives what the server says.
func (s server) Read(p []byte) (int, error) {
	select {
	case <-s.received:
		_ = s.SetReadDeadline(time.Now().Add(farewell))
	default:
	}
	return s.TCPConn.Read(p)
}

// dial tries the families one after the other: a server may listen on one of them only.
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
