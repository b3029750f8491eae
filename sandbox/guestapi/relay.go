// SPDX-License-Identifier: Apache-2.0

package guestapi

import "io"

// Relay carries a connection on which the server's end is the client's too. It copies what the
// server says, closes the client when that ends, and returns. up passes on what the client says,
// and returns when the client has gone: one that has said its last word may still read. Then both
// are closed. Relay does not wait for up, which ends when its caller has closed both.
func Relay(client, server io.ReadWriteCloser, up func()) {
	go func() {
		up()
		_, _ = client.Close(), server.Close() // nobody wants an answer any more
	}()
	_, _ = io.Copy(client, server)
	_ = client.Close()
}

// halfCloser is a connection that can be closed for writing alone.
type halfCloser interface {
	io.Writer
	CloseWrite() error
}

// CopyInput passes on what a client says in FrameInput until it has gone or breaks the contract. An
// empty frame is its last word: the client may go on reading, so only the server's input is closed.
// Errors of the server are ignored: one that reads no more may go on answering.
func CopyInput(server halfCloser, client io.Reader) {
	for {
		frame, err := ReadFrame(client, FrameInput)
		switch {
		case err != nil:
			return
		case len(frame.Data) == 0:
			_ = server.CloseWrite()
		default:
			_, _ = server.Write(frame.Data)
		}
	}
}
