// SPDX-License-Identifier: Apache-2.0

package forward

import (
	"errors"
	"io"
	"net"
	"testing"

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
		t.Errorf("the server is not told that its client has gone: %v", err)
	}
}

// TestServeNobody has nobody listen.
func TestServeNobody(t *testing.T) {
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
