// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"crypto/rand"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
)

const (
	// ControlStream is the name of the stream that carries ttrpc.
	ControlStream = "ttrpc"

	ioPrefix     = "io/"
	tcpPrefix    = "tcp/"
	socketPrefix = "unix/"
	maxToken     = 64
)

// Token names one direction of data of one process. It takes the place of a FIFO's path in the
// Create and Exec calls that go to the guest. Who knows it may speak for that process or socket, so
// it is random and goes to one guest alone.
type Token string

// ParseToken checks that s is 1 to 64 of a-z, 0-9 and "-".
func ParseToken(s string) (Token, error) {
	if s == "" || len(s) > maxToken {
		return "", fmt.Errorf("stream token of %d bytes: %w", len(s), errdefs.ErrInvalidArgument)
	}
	for _, c := range []byte(s) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return "", fmt.Errorf("stream token %q: %w", Text(s, maxToken), errdefs.ErrInvalidArgument)
		}
	}
	return Token(s), nil
}

// StreamName is the first thing sent on a stream: one byte with the length, then the name. The
// agent reads it before anything else of the stream.
type StreamName string

// Token is the token in an io/ name.
func (n StreamName) Token() (Token, bool) {
	s, ok := strings.CutPrefix(string(n), ioPrefix)
	return Token(s), ok
}

// Socket is the token in a unix/ name: of one of the guest's listeners. The
// guest sends Connected and then FrameInput, an empty one for its client's last
// word; the stream's end is the client's. The host sends bytes.
func (n StreamName) Socket() (Token, bool) {
	s, ok := strings.CutPrefix(string(n), socketPrefix)
	token, err := ParseToken(s)
	return token, ok && err == nil
}

// Port is the port in a tcp/ name: of the guest's localhost. The guest sends
// Connected and then bytes, the host FrameInput, an empty one for its client's
// last word; the stream's end is the client's.
func (n StreamName) Port() (uint16, bool) {
	s, ok := strings.CutPrefix(string(n), tcpPrefix)
	port, err := strconv.ParseUint(s, 10, 16)
	// One port has one name.
	return uint16(port), ok && err == nil && port > 0 && n == portName(uint16(port))
}

// portName is the one name of a port; "tcp/080" is none.
func portName(port uint16) StreamName {
	return StreamName(tcpPrefix + strconv.FormatUint(uint64(port), 10))
}

// encode gives the header; names are far below 256 bytes.
func (n StreamName) encode() []byte {
	return append([]byte{byte(len(n))}, n...)
}

// ReadStreamName takes a stream's header from r and not a byte more. It is the agent's.
func ReadStreamName(r io.Reader) (StreamName, error) {
	var length [1]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return "", fmt.Errorf("read stream header: %w", err)
	}
	if length[0] == 0 || int(length[0]) > len(socketPrefix)+maxToken {
		return "", fmt.Errorf("stream header of %d bytes: %w", length[0], errdefs.ErrInvalidArgument)
	}
	name := make([]byte, length[0])
	if _, err := io.ReadFull(r, name); err != nil {
		return "", fmt.Errorf("read stream header: %w", err)
	}
	n := StreamName(name)
	if n == ControlStream || n == NamesStream || n == DebugStream {
		return n, nil
	}
	if _, ok := n.Port(); ok {
		return n, nil
	}
	if _, ok := n.Socket(); ok {
		return n, nil
	}
	token, ok := n.Token()
	if !ok {
		return "", fmt.Errorf("stream header %q: %w", Text(string(name), maxToken), errdefs.ErrInvalidArgument)
	}
	if _, err := ParseToken(string(token)); err != nil {
		return "", err
	}
	return n, nil
}

// NewToken gives a random one.
func NewToken() Token { return Token(strings.ToLower(rand.Text())) }
