// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"io"
	"net"
	"runtime"
	"testing"

	"github.com/hashicorp/yamux"
)

// TestFullWindowsAreBounded has a guest fill the window of every stream while the host reads none:
// what the host holds stays within StreamMemory for each of them.
func TestFullWindowsAreBounded(t *testing.T) {
	const streams = 128
	sent := make(chan struct{})
	c, err := hostile(t, func(_ net.Conn, session *yamux.Session) {
		all := make([]*yamux.Stream, streams)
		for i := range all {
			s, err := session.AcceptStream()
			if err != nil {
				return
			}
			if _, err := ReadStreamName(s); err != nil {
				return
			}
			all[i] = s
		}
		piece := make([]byte, 4<<10) // small frames make the buffer grow step by step
		for range window / len(piece) {
			for _, s := range all {
				if _, err := s.Write(piece); err != nil {
					return
				}
			}
		}
		close(sent)
		if last, err := session.AcceptStream(); err == nil {
			_ = last.Close() // behind all the rest on the channel
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	before := heap()
	open := make([]*Stream, streams)
	for i := range open {
		if open[i], err = c.OpenStream(t.Context(), "full"); err != nil {
			t.Fatal(err)
		}
	}
	<-sent
	last, err := c.OpenStream(t.Context(), "last")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(last); err != nil {
		t.Fatal(err)
	}
	used := heap() - before
	t.Logf("%d full windows: %d KiB each", streams, used/streams>>10)
	if used < streams*window || used > streams*StreamMemory {
		t.Errorf("the host holds %d KiB for %d full windows, want %d to %d KiB each", used>>10, streams, window>>10, StreamMemory>>10)
	}
	runtime.KeepAlive(open)
}

// heap is what is in use after a garbage collection.
func heap() int {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int(m.HeapAlloc)
}
