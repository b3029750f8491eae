// SPDX-License-Identifier: Apache-2.0

package names

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/containerd/log"

	"cloister/sandbox/guestapi"
)

const (
	// maxConns is how many TCP connections are served at once; more wait.
	maxConns = 32
	// idle is how long a TCP connection may say nothing.
	idle = 10 * time.Second
	// tries at a port that is free for both transports.
	tries = 16
)

func address() netip.Addr { return netip.AddrFrom4([4]byte{127, 0, 0, 11}) }

// server puts the guest's questions to the host. It does not read a question: the host passes it
// on, and the answer back, byte for byte.
type server struct {
	stream io.ReadWriteCloser
	slots  chan struct{} // one for each question that waits for its answer

	writing sync.Mutex // of stream

	mu      sync.Mutex
	next    uint16
	waiting map[uint16]func(answer []byte)
}

// newServer has as many slots as the host takes questions at once, so the host never has to refuse
// one.
func newServer(stream io.ReadWriteCloser) *server {
	return &server{stream: stream, slots: make(chan struct{}, guestapi.MaxQuestions), waiting: map[uint16]func([]byte){}}
}

// Serve listens until the host closes stream, and closes it. There is one for a guest. It returns
// when the stream has ended or nothing can listen; names are then not resolved, and nothing else
// fails.
func Serve(ctx context.Context, stream io.ReadWriteCloser) {
	if err := serve(ctx, stream); err != nil {
		log.G(ctx).WithError(err).Error("serve names")
	}
}

// serve sets everything up before its first frame: an empty question tells the host that the server
// is ready.
func serve(ctx context.Context, stream io.ReadWriteCloser) error {
	defer stream.Close()
	datagrams, connections, err := listen(ctx)
	if err != nil {
		return err
	}
	defer datagrams.Close()
	defer connections.Close()
	// From here on programs reach the server; before, they get "connection refused", as from an
	// engine without one.
	undo, err := redirect(uint16(connections.Addr().(*net.TCPAddr).Port)) //nolint:forcetypeassert // a TCP listener's
	if err != nil {
		return err
	}
	defer undo()
	s := newServer(stream)
	go s.serveUDP(datagrams)
	go s.serveTCP(connections)
	// The host waits for this frame before it goes on.
	if err := guestapi.WriteQuestion(stream, guestapi.Question{}); err != nil {
		return err
	}
	return s.readAnswers()
}

// listen gives one port for both transports. The kernel chooses the UDP port, and TCP may be taken
// on the same number: then both are tried anew.
func listen(ctx context.Context) (*net.UDPConn, net.Listener, error) {
	var last error
	for range tries {
		datagrams, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(address(), 0)))
		if err != nil {
			return nil, nil, fmt.Errorf("listen for names: %w", err)
		}
		connections, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", datagrams.LocalAddr().String())
		if err == nil {
			return datagrams, connections, nil
		}
		last = errors.Join(err, datagrams.Close())
	}
	return nil, nil, fmt.Errorf("listen for names: %w", last)
}

// readAnswers hands out what the host answers until it closes the stream. An answer to a question
// that nobody asked is dropped: ids are matched, and each is used once.
func (s *server) readAnswers() error {
	for {
		id, data, err := guestapi.ReadAnswer(s.stream)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		done := s.waiting[id]
		delete(s.waiting, id)
		s.mu.Unlock()
		if done != nil {
			done(data)
		}
	}
}

// ask calls done with the answer once, or with one that says that there is none. It waits while too
// many questions have no answer: the kernel's queues hold those that come meanwhile, in their
// order. done must not block. It writes to the stream under a lock of its own: a host that reads
// slowly holds up questions, and no answers.
func (s *server) ask(tcp bool, question []byte, done func(answer []byte)) {
	// Taken before the id, so that ids never run out: there are far fewer slots than ids.
	s.slots <- struct{}{}
	id := s.await(func(answer []byte) {
		<-s.slots
		if len(answer) == 0 {
			answer = failure(question)
		}
		done(answer)
	})
	s.writing.Lock()
	defer s.writing.Unlock()
	_ = guestapi.WriteQuestion(s.stream, guestapi.Question{ID: id, TCP: tcp, Data: question}) // readAnswers sees the stream's end
}

// await finds an id that is not in use. The loop ends because slots bound how many are in use.
func (s *server) await(done func([]byte)) (id uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.next++
	for s.waiting[s.next] != nil {
		s.next++
	}
	s.waiting[s.next] = done
	return s.next
}

// failure is the answer of a server that cannot answer (RFC 1035, 4.1.1): without it, who asks
// would wait. It is the question with the bits of a response and SERVFAIL. A question that is too
// short for a header gets no answer.
func failure(question []byte) []byte {
	const header, response, rcode, serverFailure = 12, 0x80, 0x0f, 2
	if len(question) < header {
		return nil
	}
	answer := append([]byte(nil), question...)
	answer[2] |= response
	answer[3] = answer[3]&^rcode | serverFailure
	return answer
}

// serveUDP ends when the socket is closed.
func (s *server) serveUDP(conn *net.UDPConn) {
	// One byte more than a question may have, so that a longer one is noticed and not cut.
	buffer := make([]byte, guestapi.MaxQuestion+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n > guestapi.MaxQuestion {
			continue // an error about an answer that nobody took
		}
		// The buffer is used again at once; the question waits.
		s.ask(false, append([]byte(nil), buffer[:n]...), func(answer []byte) {
			if len(answer) > 0 {
				_, _ = conn.WriteToUDPAddrPort(answer, from) // who asked may have gone
			}
		})
	}
}

// serveTCP ends when the listener is closed.
func (s *server) serveTCP(l net.Listener) {
	slots := make(chan struct{}, maxConns)
	// The kernel's backlog holds connections that have no slot.
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of descriptors there may be some again
			// EMFILE: the listener is fine, and stopping here would end TCP for the life of the
			// guest.
			<-time.After(100 * time.Millisecond)
			continue
		}
		slots <- struct{}{}
		go func() {
			defer func() { <-slots }()
			defer conn.Close()
			var err error
			for err == nil {
				err = s.serveOne(conn)
			}
		}()
	}
}

// serveOne takes one question from a TCP connection (RFC 1035, 4.2.2) and sends its answer. An
// error ends the connection: after a wrong length there is no way to find the next question.
func (s *server) serveOne(conn net.Conn) error {
	// A client that connects and says nothing would keep a slot.
	if err := conn.SetReadDeadline(time.Now().Add(idle)); err != nil {
		return err
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return err
	}
	size := binary.BigEndian.Uint16(length[:])
	if size > guestapi.MaxQuestion {
		return io.ErrShortBuffer
	}
	question := make([]byte, size)
	if _, err := io.ReadFull(conn, question); err != nil {
		return err
	}
	// Buffered, so that the answer's goroutine never waits for a connection that has gone.
	answers := make(chan []byte, 1)
	s.ask(true, question, func(answer []byte) { answers <- answer })
	answer := <-answers
	if len(answer) == 0 {
		return io.ErrUnexpectedEOF
	}
	frame := binary.BigEndian.AppendUint16(nil, uint16(len(answer)))
	_, err := conn.Write(append(frame, answer...))
	return err
}
