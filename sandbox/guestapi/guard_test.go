// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func frame(version, kind byte, flags uint16, id, length uint32) []byte {
	h := []byte{version, kind}
	h = binary.BigEndian.AppendUint16(h, flags)
	h = binary.BigEndian.AppendUint32(h, id)
	return binary.BigEndian.AppendUint32(h, length)
}

// byteConn reads from a buffer, step bytes at a time.
type byteConn struct {
	net.Conn
	r    io.Reader
	step int
}

func (c byteConn) Read(p []byte) (int, error) {
	if c.step > 0 && len(p) > c.step {
		p = p[:c.step]
	}
	return c.r.Read(p)
}

func TestFrameGuard(t *testing.T) {
	data := append(frame(0, frameData, 0, 3, 3), "abc"...)
	for _, tt := range []struct {
		name string
		in   []byte
		bad  bool
	}{
		{name: "data", in: data},
		{name: "two", in: append(bytes.Clone(data), data...)},
		{name: "window", in: frame(0, frameWindowUpdate, 2, 1, 1000)},
		{name: "go away", in: frame(0, frameGoAway, 0, 0, 0)},
		{name: "version", in: frame(1, frameData, 0, 1, 0), bad: true},
		{name: "ping", in: frame(0, 2, flagSYN, 0, 1), bad: true},
		{name: "type", in: frame(0, 9, 0, 1, 1), bad: true},
		{name: "guest opens", in: frame(0, frameWindowUpdate, flagSYN, 2, 0), bad: true},
		{name: "even id", in: frame(0, frameData, 0, 2, 0), bad: true},
		{name: "never opened", in: frame(0, frameData, 0, 7, 0), bad: true},
		{name: "huge", in: frame(0, frameData, 0, 1, window+1), bad: true},
		{name: "flags", in: frame(0, frameData, 0x100, 1, 0), bad: true},
		{name: "bad after good", in: append(bytes.Clone(data), frame(0, 2, 0, 0, 0)...), bad: true},
	} {
		for step := range 5 {
			g := &frameGuard{Conn: byteConn{r: bytes.NewReader(tt.in), step: step}}
			g.last.Store(5)
			got, err := io.ReadAll(g)
			if errors.Is(err, ErrProtocol) != tt.bad {
				t.Errorf("%s, %d bytes at a time: %v, want a violation: %t", tt.name, step, err, tt.bad)
			}
			if diff := cmp.Diff(tt.in, got); !tt.bad && diff != "" {
				t.Errorf("%s: %s", tt.name, diff)
			}
		}
	}
}

func TestCallGuard(t *testing.T) {
	message := func(length, id uint32, kind byte) []byte {
		h := binary.BigEndian.AppendUint32(nil, length)
		return append(binary.BigEndian.AppendUint32(h, id), kind, 0)
	}
	answer := append(message(2, 1, typeResponse), "ok"...)
	for _, tt := range []struct {
		name string
		in   []byte
		bad  bool
	}{
		{name: "answer", in: answer},
		{name: "both", in: append(bytes.Clone(answer), message(0, 3, typeResponse)...)},
		{name: "twice", in: append(bytes.Clone(answer), answer...), bad: true},
		{name: "never asked", in: message(0, 5, typeResponse), bad: true},
		{name: "request", in: message(0, 1, typeRequest), bad: true},
		{name: "data", in: message(0, 1, 3), bad: true},
		{name: "huge", in: message(maxResponse+1, 1, typeResponse), bad: true},
	} {
		for step := range 4 {
			var reason error
			g := &callGuard{
				Conn: byteConn{r: bytes.NewReader(tt.in), step: step}, pending: map[uint32]struct{}{1: {}, 3: {}},
				violated: func(err error) { reason = err },
			}
			_, err := io.ReadAll(g)
			if errors.Is(err, ErrProtocol) != tt.bad || errors.Is(reason, ErrProtocol) != tt.bad {
				t.Errorf("%s: %v, %v, want a violation: %t", tt.name, err, reason, tt.bad)
			}
		}
	}
}

// FuzzFrameGuard demands that it does not matter how the bytes are cut.
func FuzzFrameGuard(f *testing.F) {
	f.Add(append(frame(0, frameData, 0, 3, 3), "abc"...), 1)
	f.Add(frame(0, frameWindowUpdate, 2, 1, 1000), 5)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		read := func(step int) error {
			g := &frameGuard{Conn: byteConn{r: bytes.NewReader(in), step: step}}
			g.last.Store(9)
			_, err := io.Copy(io.Discard, g)
			return err
		}
		whole, cut := read(0), read(max(step, 1))
		if (whole == nil) != (cut == nil) {
			t.Errorf("%q: %v as a whole, %v in steps of %d", in, whole, cut, step)
		}
	})
}

func FuzzCallGuard(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x02\x00\x00\x00\x01\x02\x00ok"), 1)
	f.Fuzz(func(t *testing.T, in []byte, step int) {
		read := func(step int) error {
			g := &callGuard{
				Conn: byteConn{r: bytes.NewReader(in), step: step}, pending: map[uint32]struct{}{1: {}, 3: {}},
				violated: func(error) {},
			}
			_, err := io.Copy(io.Discard, g)
			return err
		}
		whole, cut := read(0), read(max(step, 1))
		if (whole == nil) != (cut == nil) {
			t.Errorf("%q: %v as a whole, %v in steps of %d", in, whole, cut, step)
		}
	})
}
