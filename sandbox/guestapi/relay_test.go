// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
)

// TestRelayEndsWithTheServer has a client that goes on talking when the server has ended.
func TestRelayEndsWithTheServer(t *testing.T) {
	user, client := net.Pipe()
	far, server := net.Pipe()
	ended, release := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		Relay(client, server, func() { <-release })
	}()
	go func() {
		_, _ = io.WriteString(far, "answer")
		_ = far.Close()
	}()
	if got, err := io.ReadAll(user); err != nil || string(got) != "answer" {
		t.Errorf("the client reads %q, %v", got, err)
	}
	<-ended
	close(release)
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("the server's end = %v", err)
	}
}

// TestRelayEndsWithTheClient has a server that never ends by itself.
func TestRelayEndsWithTheClient(t *testing.T) {
	user, client := net.Pipe()
	far, server := net.Pipe()
	Relay(client, server, func() {}) // returns: the client has gone
	for name, conn := range map[string]net.Conn{"client": user, "server": far} {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("the %s reads %v, want its end", name, err)
		}
	}
}

// fakeServer notes what is written, and has read enough after two writes.
type fakeServer struct{ got []string }

func (s *fakeServer) Write(p []byte) (int, error) {
	s.got = append(s.got, string(p))
	if len(s.got) > 2 {
		return 0, io.ErrClosedPipe
	}
	return len(p), nil
}

func (s *fakeServer) CloseWrite() error {
	s.got = append(s.got, "last word")
	return nil
}

func TestCopyInput(t *testing.T) {
	for name, end := range map[string]string{"gone": "", "breaks the contract": "nonsense", "goes within a frame": "i\x00\x09x"} {
		var sent bytes.Buffer
		for _, data := range []string{"a", "b", "c", "d", ""} {
			if err := WriteFrame(&sent, FrameInput, []byte(data)); err != nil {
				t.Fatal(err)
			}
		}
		sent.WriteString(end)
		var s fakeServer
		CopyInput(&s, &sent) // returns
		if want := []string{"a", "b", "c", "d", "last word"}; !slices.Equal(s.got, want) {
			t.Errorf("%s: the server got %q, want %q", name, s.got, want)
		}
	}
}

// TestFrames has more written at once than a frame may hold, and nothing.
func TestFrames(t *testing.T) {
	var sent bytes.Buffer
	frames := Frames{Kind: FrameOutput, To: &sent}
	for _, size := range []int{0, 2*MaxFrame + 1} {
		if n, err := frames.Write(make([]byte, size)); n != size || err != nil {
			t.Errorf("Write of %d bytes = %d, %v", size, n, err)
		}
	}
	for _, want := range []int{MaxFrame, MaxFrame, 1} {
		if f, err := ReadFrame(&sent, FrameOutput); err != nil || len(f.Data) != want {
			t.Errorf("a frame of %d bytes, %v, want %d", len(f.Data), err, want)
		}
	}
	if sent.Len() != 0 {
		t.Errorf("%d bytes too many", sent.Len())
	}
}
