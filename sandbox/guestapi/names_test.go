// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/hashicorp/yamux"
)

// serveNames is a guest whose agent takes the stream of names and gives it to say.
func serveNames(t *testing.T, say func(stream *yamux.Stream)) *Client {
	t.Helper()
	host, far := channel(t)
	go func() {
		session, err := Serve(far, Hello{Protocol: Protocol, AgentVersion: "test"})
		if err != nil {
			return
		}
		for {
			s, err := session.AcceptStream()
			if err != nil {
				return
			}
			if name, err := ReadStreamName(s); err == nil && name == NamesStream {
				go say(s)
			}
		}
	}()
	c, _, err := NewClient(t.Context(), host, Machine{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// TestServeNames asks more at once than may wait: the rest is asked as soon as there are answers.
func TestServeNames(t *testing.T) {
	const more = 50
	type answered struct {
		id   uint16
		data string
	}
	answers := make(chan answered)
	c := serveNames(t, func(s *yamux.Stream) {
		for i := range MaxQuestions + more + 1 { // the first says that the agent listens
			if err := WriteQuestion(s, Question{ID: uint16(i), TCP: i%2 == 0, Data: []byte("?")[:min(i, 1)]}); err != nil {
				return
			}
		}
		for {
			id, data, err := ReadAnswer(s)
			if err != nil {
				return
			}
			answers <- answered{id, string(data)}
		}
	})
	release, asked := make(chan struct{}), make(chan struct{}, MaxQuestions+more)
	err := c.ServeNames(t.Context(), func(_ context.Context, q Question) []byte {
		asked <- struct{}{}
		<-release
		if q.TCP {
			return []byte("tcp " + string(q.Data))
		}
		return []byte("udp " + string(q.Data))
	})
	if err != nil {
		t.Fatal(err)
	}
	for range MaxQuestions {
		<-asked
	}
	select {
	case got := <-answers:
		t.Errorf("question %d is answered with %q before any answer is there", got.id, got.data)
	case <-asked:
		t.Errorf("more than %d questions are asked at once", MaxQuestions)
	default:
	}
	close(release)
	seen := map[uint16]bool{}
	for range MaxQuestions + more {
		got := <-answers
		want := "udp ?"
		if got.id%2 == 0 {
			want = "tcp ?"
		}
		if got.data != want || seen[got.id] {
			t.Errorf("question %d is answered with %q, want %q once", got.id, got.data, want)
		}
		seen[got.id] = true
	}
}

func TestNamesOfAGuestThatBreaksTheContract(t *testing.T) {
	for _, tt := range []struct{ name, say string }{
		{"kind", "u\x00\x00\x00\x00x\x00\x01\x00\x00"},
		{"length", "u\x00\x00\x00\x00u\x00\x01\xff\xff" + strings.Repeat("x", 65535)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := serveNames(t, func(s *yamux.Stream) { _, _ = io.WriteString(s, tt.say) })
			if err := c.ServeNames(t.Context(), func(context.Context, Question) []byte { return nil }); err != nil {
				t.Fatal(err)
			}
			waitDone(t, c)
			if !errors.Is(c.Err(), ErrProtocol) {
				t.Errorf("Err = %v, want %v", c.Err(), ErrProtocol)
			}
		})
	}
}

func TestNamesOfAnAgentThatDoesNotListen(t *testing.T) {
	c := serveNames(t, func(s *yamux.Stream) { _ = s.Close() })
	if err := c.ServeNames(t.Context(), nil); err == nil {
		t.Error("ServeNames gives no error")
	}
}

// FuzzNames gives the host whatever bytes on the stream of names.
func FuzzNames(f *testing.F) {
	f.Add([]byte("u\x00\x01\x00\x01?t\x00\x02\x00\x00"))
	f.Add([]byte("u\x00\x01\x10\x01"))
	f.Fuzz(func(t *testing.T, in []byte) {
		host, guest := net.Pipe()
		go io.Copy(io.Discard, guest) //nolint:errcheck // ends with the test
		go func() {
			_, _ = guest.Write(in)
			_ = guest.Close()
		}()
		err := answer(t.Context(), host, func(_ context.Context, q Question) []byte {
			if len(q.Data) > MaxQuestion {
				t.Errorf("a question of %d bytes", len(q.Data))
			}
			return q.Data
		})
		if err != nil && !errors.Is(err, ErrProtocol) {
			t.Errorf("answer = %v", err)
		}
	})
}

func TestQuestionRoundTrip(t *testing.T) {
	for _, want := range []Question{{}, {ID: 1, TCP: true, Data: []byte("?")}, {ID: 65535, Data: make([]byte, MaxQuestion)}} {
		var wire bytes.Buffer
		if err := WriteQuestion(&wire, want); err != nil {
			t.Fatal(err)
		}
		got, err := ReadQuestion(&wire)
		if err != nil || got.ID != want.ID || got.TCP != want.TCP || !bytes.Equal(got.Data, want.Data) || wire.Len() != 0 {
			t.Errorf("ReadQuestion = %d, %v, %d bytes, %v, want %d, %v, %d bytes", got.ID, got.TCP,
				len(got.Data), err, want.ID, want.TCP, len(want.Data))
		}
	}
	if err := WriteQuestion(io.Discard, Question{Data: make([]byte, MaxQuestion+1)}); err == nil {
		t.Error("WriteQuestion takes a question that ReadQuestion refuses")
	}
}
