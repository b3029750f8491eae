// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/containerd/errdefs"
)

// yamux's frame header, from its spec.md.
const (
	frameHeader = 12

	frameData         = 0
	frameWindowUpdate = 1
	frameGoAway       = 3

	flagSYN  = 1
	flagsAll = 0xf
)

// frameGuard stands between the channel and yamux, and lets only those frames
// of the guest pass that an honest agent sends: no pings, no streams of its
// own, none that the host has not opened, none beyond the window. yamux alone
// would start a goroutine for each ping.
type frameGuard struct {
	net.Conn
	// last is the highest id of a stream that the host has opened.
	last atomic.Uint32
	// reason keeps what ended the session.
	reason atomic.Pointer[error]

	in, out frameScanner
}

// frameScanner finds the headers in a sequence of frames.
type frameScanner struct {
	header [frameHeader]byte
	filled int
	body   int // 32 bits on the wire
}

// scan calls check for each header that p completes.
func (s *frameScanner) scan(p []byte, check func(header []byte) error) error {
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
		if s.filled < frameHeader {
			return nil
		}
		s.filled = 0
		if err := check(s.header[:]); err != nil {
			return err
		}
		if s.header[1] == frameData {
			s.body = int(binary.BigEndian.Uint32(s.header[8:]))
		}
	}
	return nil
}

// Read checks what yamux gets. yamux has one reader, so the scanner needs no lock.
func (g *frameGuard) Read(p []byte) (int, error) {
	n, err := g.Conn.Read(p)
	if bad := g.in.scan(p[:n], g.checkIn); bad != nil {
		g.end(bad)
		return 0, bad
	}
	if err != nil {
		g.end(fmt.Errorf("guest hung up: %w: %w", errdefs.ErrUnavailable, err))
	}
	return n, err
}

// end notes why the session ends; the first reason stays.
func (g *frameGuard) end(err error) { g.reason.CompareAndSwap(nil, &err) }

func (g *frameGuard) Write(p []byte) (int, error) {
	if err := g.out.scan(p, g.noteOut); err != nil {
		return 0, err
	}
	return g.Conn.Write(p)
}

// noteOut notes an id before its frame leaves: the guest's answer cannot come earlier.
func (g *frameGuard) noteOut(h []byte) error {
	if binary.BigEndian.Uint16(h[2:])&flagSYN != 0 {
		// Only yamux's one sender writes; it may send a higher id first.
		g.last.Store(max(g.last.Load(), binary.BigEndian.Uint32(h[4:])))
	}
	return nil
}

// checkIn refuses what an honest agent never sends. Ids of the host's streams are odd (yamux's
// spec).
func (g *frameGuard) checkIn(h []byte) error {
	kind, flags := h[1], binary.BigEndian.Uint16(h[2:])
	id, length := binary.BigEndian.Uint32(h[4:]), binary.BigEndian.Uint32(h[8:])
	switch {
	case h[0] != 0:
		return fmt.Errorf("%w: frame of version %d", ErrProtocol, h[0])
	case kind == frameGoAway:
		return nil
	case kind != frameData && kind != frameWindowUpdate:
		return fmt.Errorf("%w: frame of type %d", ErrProtocol, kind)
	case flags&flagSYN != 0:
		return fmt.Errorf("%w: it opens stream %d", ErrProtocol, id)
	case flags&^flagsAll != 0:
		return fmt.Errorf("%w: frame with flags %#x", ErrProtocol, flags)
	case id%2 == 0 || id > g.last.Load():
		return fmt.Errorf("%w: frame for stream %d, which was never opened", ErrProtocol, id)
	case length > window:
		return fmt.Errorf("%w: frame of %d bytes", ErrProtocol, length)
	}
	return nil
}
