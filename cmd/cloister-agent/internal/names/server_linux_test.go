// SPDX-License-Identifier: Apache-2.0

package names

import (
	"bytes"
	"encoding/binary"
	"io"
	"net"
	"testing"
	"time"

	"github.com/cilium/ebpf"

	"cloister/sandbox/guestapi"
	"cloister/tests/testenv"
)

// message is the least that a server answers: a header with an id.
func message(id uint16) []byte { return binary.BigEndian.AppendUint16(nil, id) }

func question(id uint16) []byte { return append(message(id), 1, 0, 0, 1, 0, 0, 0, 0, 0, 0) }

// serveHost answers a server's questions, those of id 7 with nothing.
func serveHost(t *testing.T) (datagrams *net.UDPConn, connections net.Listener) {
	t.Helper()
	host, guest := net.Pipe()
	datagrams, connections, err := listen(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	s := newServer(guest)
	go s.serveUDP(datagrams)
	go s.serveTCP(connections)
	go s.readAnswers() //nolint:errcheck // ends with the pipe
	t.Cleanup(func() { _, _, _ = datagrams.Close(), connections.Close(), host.Close() })
	go func() {
		for {
			q, err := guestapi.ReadQuestion(host)
			if err != nil {
				return
			}
			answer := append(bytes.Clone(q.Data), "udp"...)
			if q.TCP {
				answer = append(bytes.Clone(q.Data), "tcp"...)
			}
			if q.Data[1] == 7 {
				answer = nil
			}
			if guestapi.WriteAnswer(host, q.ID, answer) != nil {
				return
			}
		}
	}()
	return datagrams, connections
}

func TestServer(t *testing.T) {
	datagrams, connections := serveHost(t)
	refused := func(q []byte) string {
		q = bytes.Clone(q)
		q[2], q[3] = 0x81, 2 // an answer: the server failed
		return string(q)
	}
	for _, tt := range []struct {
		name, network, want string
		id                  uint16
	}{
		{"udp", "udp4", string(question(1)) + "udp", 1},
		{"tcp", "tcp4", string(question(2)) + "tcp", 2},
		{"no answer, udp", "udp4", refused(question(7)), 7},
		{"no answer, tcp", "tcp4", refused(question(7)), 7},
	} {
		t.Run(tt.name, func(t *testing.T) {
			address := connections.Addr().String()
			if address != datagrams.LocalAddr().String() {
				t.Fatalf("listens at %s and %s", address, datagrams.LocalAddr())
			}
			conn, err := net.Dial(tt.network, address) //nolint:noctx // loopback
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
			ask, stream := question(tt.id), tt.network == "tcp4"
			if stream {
				ask = append(binary.BigEndian.AppendUint16(nil, uint16(len(ask))), ask...)
			}
			if _, err := conn.Write(ask); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 100)
			n, err := conn.Read(got)
			if stream && err == nil {
				size := int(binary.BigEndian.Uint16(got))
				_, err = io.ReadFull(conn, got[n:size+2])
				got, n = got[2:], size
			}
			if err != nil || string(got[:n]) != tt.want {
				t.Errorf("answer = %q, %v, want %q", got[:n], err, tt.want)
			}
		})
	}
}

// TestManyQuestionsAreAnswered asks more at once than may wait for answers, by both transports:
// none is refused, whatever the host does first.
func TestManyQuestionsAreAnswered(t *testing.T) {
	const more = 100
	host, guest := net.Pipe()
	defer host.Close()
	s := newServer(guest)
	go s.readAnswers() //nolint:errcheck // ends with the pipe
	answers := make(chan string, guestapi.MaxQuestions+more)
	go func() {
		for i := range cap(answers) {
			s.ask(i%2 == 0, question(uint16(i)), func(answer []byte) { answers <- string(answer) })
		}
	}()
	var held []guestapi.Question
	for range guestapi.MaxQuestions {
		q, err := guestapi.ReadQuestion(host)
		if err != nil {
			t.Fatal(err)
		}
		held = append(held, q)
	}
	if len(answers) != 0 {
		t.Fatalf("%q is an answer, and the host has given none", <-answers)
	}
	// The last ones first, and each answer lets another question come.
	for i := range cap(answers) {
		q := held[len(held)-1]
		held = held[:len(held)-1]
		if err := guestapi.WriteAnswer(host, q.ID, append([]byte("answer"), q.Data...)); err != nil {
			t.Fatal(err)
		}
		if i < more {
			q, err := guestapi.ReadQuestion(host)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, q)
		}
	}
	seen := map[string]bool{}
	for range cap(answers) {
		seen[<-answers] = true
	}
	for i := range cap(answers) {
		if !seen["answer"+string(question(uint16(i)))] {
			t.Errorf("question %d has no answer", i)
		}
	}
}

// TestKernelAcceptsThePrograms has this machine's kernel check the programs; they are attached in a
// guest alone.
func TestKernelAcceptsThePrograms(t *testing.T) {
	testenv.NeedRoot(t)
	for _, h := range hooks() {
		t.Run(h.at.String(), func(t *testing.T) {
			p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.CGroupSockAddr, AttachType: h.at, Instructions: h.program(40000)})
			if err != nil {
				t.Fatalf("%+v", err)
			}
			_ = p.Close()
		})
	}
}

func FuzzFailure(f *testing.F) {
	f.Add(question(1))
	f.Fuzz(func(t *testing.T, in []byte) {
		before := bytes.Clone(in)
		out := failure(in)
		if !bytes.Equal(in, before) || len(out) != 0 && (len(out) != len(in) || out[2]&0x80 == 0) {
			t.Errorf("failure(%x) = %x", in, out)
		}
	})
}
