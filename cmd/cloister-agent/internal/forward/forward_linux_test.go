// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"cloister/sandbox/guestapi"
)

// TestServe has a server that answers once its client has said its last word, then speaks without
// end, and is told when the client goes.
func TestServe(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		conn, err := l.Accept()
		if err != nil {
			ended <- err
			return
		}
		defer conn.Close()
		said, err := io.ReadAll(conn)
		for ; err == nil; said = make([]byte, 1<<10) {
			_, err = conn.Write(said)
		}
		ended <- err
	}()
	near, far := net.Pipe()
	served := make(chan struct{})
	go func() {
		defer close(served)
		Serve(t.Context(), far, uint16(l.Addr().(*net.TCPAddr).Port))
	}()
	got := make([]byte, 5)
	if _, err := io.ReadFull(near, got[:1]); err != nil || got[0] != guestapi.Connected {
		t.Fatalf("the host reads %q, %v", got, err)
	}
	for _, data := range []string{"he", "llo", ""} { // the empty one is the last word
		if err := guestapi.WriteFrame(near, guestapi.FrameInput, []byte(data)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadFull(near, got); err != nil || string(got) != "hello" {
		t.Errorf("after its last word the client reads %q, %v", got, err)
	}
	if err := near.Close(); err != nil {
		t.Fatal(err)
	}
	<-served
	if err := <-ended; err == nil || errors.Is(err, io.EOF) {
		t.Errorf("the server does not see that its client has disconnected: %v", err)
	}
}

// TestServeWithoutAListener has nobody listen.
func TestServeWithoutAListener(t *testing.T) {
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(l.Addr().(*net.TCPAddr).Port)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	go Serve(t.Context(), far, port)
	if n, err := near.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("Read = %d, %v, want the stream's end", n, err)
	}
}

// direct can be read past what wraps it, as a net.TCPConn can.
type direct struct {
	net.Conn
	t *testing.T
}

func (direct) CloseWrite() error { return nil }

func (d direct) WriteTo(io.Writer) (int64, error) {
	d.t.Error("read past the farewell")
	return 0, io.ErrNoProgress
}

// TestServerThatSpeaksOn has a server that is silent for long before the client's last word, and
// speaks for longer than the farewell after it.
func TestServerThatSpeaksOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		s := &server{halfCloser: direct{near, t}}
		const pieces, pause = 5, 2 * farewell / 3
		go func() {
			for range pieces {
				time.Sleep(10 * farewell / pieces)
				_, _ = far.Write([]byte("a"))
			}
			_, _ = s.CloseWrite(), s.CloseWrite()
			for range pieces {
				time.Sleep(pause)
				_, _ = far.Write([]byte("b"))
			}
		}()
		begin := time.Now()
		var got strings.Builder
		_, err := io.Copy(&got, s)
		if want := 10*farewell + pieces*pause + farewell; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(begin) != want {
			t.Errorf("the silence ends with %v after %s, want after %s", err, time.Since(begin), want)
		}
		if got.String() != "aaaaabbbbb" {
			t.Errorf("the client got %q", got.String())
		}
	})
}
