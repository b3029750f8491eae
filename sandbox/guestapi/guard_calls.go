// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync"
)

const (
	// callHeader, and the types, from ttrpc's PROTOCOL.md.
	callHeader   = 10
	typeRequest  = 1
	typeResponse = 2

	// maxResponse is far above every answer of an honest agent.
	maxResponse = 1 << 20
	// maxCalls bounds what may wait for an answer at once.
	maxCalls = 4096
)

// callGuard stands between the control stream and ttrpc, and lets only answers to calls pass that
// were made and have not been answered. ttrpc alone believes the length and the id of what it
// reads.
type callGuard struct {
	net.Conn
	violated func(error)

	in, out callScanner

	mu      sync.Mutex
	pending map[uint32]struct{} // calls without an answer
}

// callScanner finds the headers of messages in a sequence of reads of any size.
type callScanner struct {
	header [callHeader]byte
	filled int
	body   int // 32 bits on the wire
}

// scan calls check for each header that p completes, and passes over the bodies.
func (s *callScanner) scan(p []byte, check func(header []byte) error) error {
	for len(p) > 0 {
		if s.body > 0 {
			n := min(s.body, len(p))
			s.body -= n
			p = p[n:]
			continue
		}
		n := copy(s.header[s.filled:], p)
		s.filled += n
		p = p[n:]
		if s.filled < callHeader {
			return nil
		}
		s.filled = 0
		if err := check(s.header[:]); err != nil {
			return err
		}
		s.body = int(binary.BigEndian.Uint32(s.header[:]))
	}
	return nil
}

// Read passes nothing on of a read that has a bad message.
func (g *callGuard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if bad := g.in.scan(p[:n], g.checkIn); bad != nil {
		g.violated(bad)
		return 0, bad
	}
	return n, err
}

// Write notes a call before it is sent: the answer may be there before Write returns.
func (g *callGuard) Write(p []byte) (int, error) {
	if err := g.out.scan(p, g.noteOut); err != nil {
		return 0, err
	}
	return g.Conn.Write(p)
}

func (g *callGuard) noteOut(h []byte) error {
	if h[8] == typeRequest {
		g.mu.Lock()
		g.pending[binary.BigEndian.Uint32(h[4:])] = struct{}{}
		g.mu.Unlock()
	}
	return nil
}

// checkIn takes each answer once: a second answer to a call could reach another call's waiter.
func (g *callGuard) checkIn(h []byte) error {
	length, id, kind := binary.BigEndian.Uint32(h), binary.BigEndian.Uint32(h[4:]), h[8]
	if kind != typeResponse {
		return fmt.Errorf("%w: ttrpc message of type %d", ErrProtocol, kind)
	}
	if length > maxResponse {
		return fmt.Errorf("%w: answer of %d bytes", ErrProtocol, length)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, ok := g.pending[id]; !ok {
		return fmt.Errorf("%w: answer to call %d, which waits for none", ErrProtocol, id)
	}
	delete(g.pending, id)
	return nil
}

// waiting counts the calls without an answer, also those whose caller has given up.
func (g *callGuard) waiting() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.pending)
}
