// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/containerd/errdefs"
)

// DebugStream is the name of the stream of one shell in the guest, outside of its containers. Both
// sides send Frames.
//
// The host sends a FrameShell with what is to run, the program in pieces of FrameProgram up to an
// empty one, then FrameInput (an empty one is its end) and FrameWindow. The guest sends
// FrameOutput, and FrameExit or FrameError last.
const DebugStream = "debug"

// FrameKind says what a Frame holds.
type FrameKind byte

// Kinds of frames.
const (
	FrameShell   FrameKind = 's' // Shell as JSON
	FrameProgram FrameKind = 'p'
	FrameInput   FrameKind = 'i'
	FrameWindow  FrameKind = 'w' // Window as JSON
	FrameOutput  FrameKind = 'o'
	FrameExit    FrameKind = 'x' // one byte, the exit status
	FrameError   FrameKind = 'e' // why the shell did not start, or was not started
)

// MaxFrame bounds what a frame holds. A program of some MiB goes over in many of them, and a guest
// never makes the host take more than this at once.
const MaxFrame = 32 << 10

const debugHeader = 3 // kind, length

// Frame is one message of a DebugStream.
type Frame struct {
	Kind FrameKind
	Data []byte
}

// Shell is what is to run.
type Shell struct {
	Args     []string `json:"args"` // of the program, its name first
	Terminal bool     `json:"terminal"`
	Term     string   `json:"term"` // the terminal's kind, for TERM
	Window   Window   `json:"window"`
}

// Window is a terminal's size in characters.
type Window struct {
	Rows    uint16 `json:"rows"`
	Columns uint16 `json:"columns"`
}

// WriteFrame sends one in one piece. Two writers of one stream do not mix frames, since each is one
// write.
func WriteFrame(w io.Writer, kind FrameKind, data []byte) error {
	if len(data) > MaxFrame {
		return fmt.Errorf("frame of %d bytes: %w", len(data), errdefs.ErrInvalidArgument)
	}
	frame := binary.BigEndian.AppendUint16([]byte{byte(kind)}, uint16(len(data)))
	_, err := w.Write(append(frame, data...))
	return err
}

// Frames sends what is written as frames of one kind.
type Frames struct {
	Kind FrameKind
	To   io.Writer
}

// Write sends a frame for each MaxFrame of p, and none for an empty p.
func (f Frames) Write(p []byte) (sent int, err error) {
	for piece := range slices.Chunk(p, MaxFrame) {
		if err := WriteFrame(f.To, f.Kind, piece); err != nil {
			return sent, err
		}
		sent += len(piece)
	}
	return sent, nil
}

// WriteFrameJSON sends a value as JSON.
func WriteFrameJSON(w io.Writer, kind FrameKind, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return err
	}
	return WriteFrame(w, kind, data)
}

// ReadFrame takes one of the kinds from r and not a byte more. The kind and length are checked
// before memory is taken. A kind that the caller does not expect breaks the contract. A bare io.EOF
// comes only between frames.
func ReadFrame(r io.Reader, kinds ...FrameKind) (Frame, error) {
	var h [debugHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return Frame{}, err
	}
	f, n := Frame{Kind: FrameKind(h[0])}, binary.BigEndian.Uint16(h[1:])
	if !slices.Contains(kinds, f.Kind) || n > MaxFrame || f.Kind == FrameExit && n != 1 {
		return Frame{}, fmt.Errorf("%w: frame of kind %q and %d bytes", ErrProtocol, h[0], n)
	}
	f.Data = make([]byte, n)
	if _, err := io.ReadFull(r, f.Data); err != nil {
		return Frame{}, fmt.Errorf("%w: frame of kind %q ends early: %w", ErrProtocol, h[0], err)
	}
	return f, nil
}

// OpenDebug opens a DebugStream; the frames are the caller's, who closes it. Whether the guest
// offers shells is in its answer: a FrameError says why not.
func (c *Client) OpenDebug(ctx context.Context) (*Stream, error) {
	mux, err := c.open(ctx, DebugStream)
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", DebugStream, err)
	}
	return &Stream{mux: mux}, nil
}
