// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/containerd/errdefs"
)

// NamesStream is the name of the stream that carries questions of the guest to
// the engine's name server, and its answers.
//
// The guest sends Questions. The first, without data, says that the agent
// listens. Each other one gets one answer with its id, in any order; an answer
// without data means that there is none.
const NamesStream = "names"

const (
	// MaxQuestion bounds a question; real ones are below 300 bytes.
	MaxQuestion = 4096
	// MaxQuestions is how many wait for their answers at once. More wait to be
	// asked, in the guest: an answer has up to 64 KiB, and those that a guest does
	// not read stay in the host's memory.
	MaxQuestions = 256

	questionHeader = 5 // kind, id, length
	answerHeader   = 4 // id, length

	overUDP = 'u'
	overTCP = 't'
)

// Question is a DNS message of the guest.
type Question struct {
	ID   uint16
	TCP  bool // asked over TCP, which takes longer answers
	Data []byte
}

// WriteQuestion sends one in one piece. It is the agent's.
func WriteQuestion(w io.Writer, q Question) error {
	if len(q.Data) > MaxQuestion {
		return fmt.Errorf("question of %d bytes: %w", len(q.Data), errdefs.ErrInvalidArgument)
	}
	kind := byte(overUDP)
	if q.TCP {
		kind = overTCP
	}
	frame := binary.BigEndian.AppendUint16([]byte{kind}, q.ID)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(q.Data)))
	_, err := w.Write(append(frame, q.Data...))
	return err
}

// ReadQuestion takes one from r and not a byte more. A kind or length that the contract does not
// have is ErrProtocol.
func ReadQuestion(r io.Reader) (Question, error) {
	var h [questionHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return Question{}, err
	}
	q := Question{ID: binary.BigEndian.Uint16(h[1:]), TCP: h[0] == overTCP}
	n := binary.BigEndian.Uint16(h[3:])
	if h[0] != overUDP && h[0] != overTCP || n > MaxQuestion {
		return Question{}, fmt.Errorf("%w: question of kind %q and %d bytes", ErrProtocol, h[0], n)
	}
	q.Data = make([]byte, n)
	_, err := io.ReadFull(r, q.Data)
	return q, err
}

// WriteAnswer sends the answer to the question with that id in one piece. data has at most 65,535
// bytes, as DNS messages have.
func WriteAnswer(w io.Writer, id uint16, data []byte) error {
	frame := binary.BigEndian.AppendUint16(nil, id)
	frame = binary.BigEndian.AppendUint16(frame, uint16(len(data)))
	_, err := w.Write(append(frame, data...))
	return err
}

// ReadAnswer takes one from r and not a byte more. It is the agent's, and trusts the host.
func ReadAnswer(r io.Reader) (id uint16, data []byte, err error) {
	var h [answerHeader]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, nil, err
	}
	data = make([]byte, binary.BigEndian.Uint16(h[2:]))
	_, err = io.ReadFull(r, data)
	return binary.BigEndian.Uint16(h[:]), data, err
}

// Ask gives the name server's answer to a question of the guest, of at most 65535
// bytes, and none where there is no answer. It may be called MaxQuestions times
// at once.
type Ask func(ctx context.Context, q Question) []byte

// ServeNames has the agent listen where the engine's name server is for its guests, and answers
// what it is asked until the session ends. It returns once the agent listens: before that a
// container would get no answer to its first question. It is called once for a guest.
func (c *Client) ServeNames(ctx context.Context, ask Ask) error {
	mux, err := c.open(ctx, NamesStream)
	if err != nil {
		return fmt.Errorf("open stream %s: %w", NamesStream, err)
	}
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = mux.SetReadDeadline(time.Unix(1, 0)) // the read below returns
		close(expired)
	})
	_, err = ReadQuestion(mux)
	if !stop() {
		<-expired
		err = context.Cause(ctx)
	}
	if err != nil {
		return fmt.Errorf("the guest's agent does not listen for names (its console tells why): %w", err)
	}
	go func() {
		defer mux.Close()
		if err := answer(context.WithoutCancel(ctx), mux, ask); err != nil {
			c.end(err)
		}
	}()
	return nil
}

// answer returns nil when the stream ends, and an error of a guest that breaks
// the contract.
func answer(ctx context.Context, stream io.ReadWriter, ask Ask) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var writing sync.Mutex
	reply := func(id uint16, data []byte) {
		writing.Lock()
		defer writing.Unlock()
		_ = WriteAnswer(stream, id, data) // the reader sees the stream's end as well
	}
	// A slot is taken before the next question is read. More of them wait in the guest, whose
	// memory they take.
	slots := make(chan struct{}, MaxQuestions)
	for {
		q, err := ReadQuestion(stream)
		switch {
		case err == nil:
		case errors.Is(err, ErrProtocol):
			return err
		default:
			return nil // the stream has ended, and with it the session
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			reply(q.ID, ask(ctx, q))
		}()
	}
}
