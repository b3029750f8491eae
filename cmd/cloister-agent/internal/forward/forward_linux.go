// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"context"
	"errors"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
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
	to := &server{halfCloser: conn}
	// No guestapi.Relay: a client may go on after the server has closed its side.
	var up sync.WaitGroup
	up.Go(func() {
		guestapi.CopyInput(to, stream)
		_ = conn.Close()
	})
	_, _ = io.Copy(stream, to)
	_ = stream.Close() // the host ends its side as well
	up.Wait()
}

// halfCloser has no WriteTo, unlike a net.TCPConn: io.Copy would not call server.Read.
type halfCloser interface {
	net.Conn
	CloseWrite() error
}

// server is a connection that ends when its server says nothing for the farewell after the client's
// last word. A download that goes on is alive as long as it moves. Without a deadline, a server
// that never closes would hold the stream, and one of the host's few slots, for good.
type server struct {
	halfCloser
	said atomic.Bool // the last word; it may come more than once
}

// CloseWrite passes on the client's last word.
func (s *server) CloseWrite() error {
	if s.said.Swap(true) {
		return nil
	}
	return errors.Join(s.halfCloser.CloseWrite(), s.SetReadDeadline(time.Now().Add(farewell)))
}

// Read gives what the server says, which has more time after that.
func (s *server) Read(p []byte) (int, error) {
	if s.said.Load() {
		_ = s.SetReadDeadline(time.Now().Add(farewell))
	}
	return s.halfCloser.Read(p)
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
