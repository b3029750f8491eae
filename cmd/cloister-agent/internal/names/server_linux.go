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

// server puts the guest's questions to the host.
type server struct {
	stream io.ReadWriteCloser
	slots  chan struct{} // one for each question that waits for its answer

	writing sync.Mutex // of stream

	mu      sync.Mutex
	next    uint16
	waiting map[uint16]func(answer []byte)
}

func newServer(stream io.ReadWriteCloser) *server {
	return &server{stream: stream, slots: make(chan struct{}, guestapi.MaxQuestions), waiting: map[uint16]func([]byte){}}
}

// Serve listens until the host closes stream, and closes it.
func Serve(ctx context.Context, stream io.ReadWriteCloser) {
	if err := serve(ctx, stream); err != nil {
		log.G(ctx).WithError(err).Error("serve names")
	}
}

func serve(ctx context.Context, stream io.ReadWriteCloser) error {
	defer stream.Close()
	datagrams, connections, err := listen(ctx)
	if err != nil {
		return err
	}
	defer datagrams.Close()
	defer connections.Close()
	undo, err := redirect(uint16(connections.Addr().(*net.TCPAddr).Port)) //nolint:forcetypeassert // a TCP listener's
	if err != nil {
		return err
	}
	defer undo()
	s := newServer(stream)
	go s.serveUDP(datagrams)
	go s.serveTCP(connections)
	if err := guestapi.WriteQuestion(stream, guestapi.Question{}); err != nil {
		return err
	}
	return s.readAnswers()
}

// listen gives one port for both transports.
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

// readAnswers hands out what the host answers until it closes the stream.
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
// order. done must not block.
func (s *server) ask(tcp bool, question []byte, done func(answer []byte)) {
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

// await finds an id that is not in use.
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
// would wait.
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
	buffer := make([]byte, guestapi.MaxQuestion+1)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil || n > guestapi.MaxQuestion {
			continue // an error about an answer that nobody took
		}
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
	for {
		conn, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of descriptors there may be some again
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

// serveOne takes one question from a TCP connection (RFC 1035, 4.2.2) and sends its answer.
func (s *server) serveOne(conn net.Conn) error {
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
