// SPDX-License-Identifier: Apache-2.0

package child

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
)

// recorderTail is how many bytes stay in memory and survive when the log starts over.
const recorderTail = 16 << 10

// Recorder keeps what a process, or the guest in it, writes to a socket: the tail
// in memory, and all of it in a log that starts over with the tail when it is
// full, so that nobody fills the disk.
type Recorder struct {
	in   io.ReadCloser
	max  int
	done chan struct{}

	mu   sync.Mutex
	log  *os.File
	size int
	tail *ring
}

// Record reads in until it ends, which Wait waits for. log, a regular file, may be nil; the
// Recorder works on a duplicate of it. maxBytes bounds the log on disk. in is always read on, also
// when the log cannot be written: a writer whose socket is full would stop.
func Record(in io.ReadCloser, log *os.File, maxBytes int) (*Recorder, error) {
	r := &Recorder{in: in, max: maxBytes, tail: newRing(min(recorderTail, maxBytes/2)), done: make(chan struct{})}
	if log != nil {
		info, err := log.Stat()
		if err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, fmt.Errorf("log %s is not a regular file", log.Name())
		}
		r.size = int(info.Size())
		if r.log, err = Dup(log); err != nil {
			return nil, err
		}
	}
	go r.read()
	return r, nil
}

// read ends when every process that has the other end is gone.
func (r *Recorder) read() {
	defer close(r.done)
	buf := make([]byte, 8<<10)
	for {
		n, err := r.in.Read(buf)
		r.keep(buf[:n])
		if err != nil {
			return
		}
	}
}

// keep appends b; a log that cannot be written is given up, the tail goes on.
func (r *Recorder) keep(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log != nil && r.append(b) != nil {
		_ = r.log.Close()
		r.log = nil
	}
	_, _ = r.tail.Write(b)
}

// append writes to the log, which begins anew when it is full. The tail is carried over, so that
// the last lines are always there.
func (r *Recorder) append(b []byte) error {
	if r.size+len(b) > r.max {
		if err := r.log.Truncate(0); err != nil {
			return err
		}
		if _, err := r.log.Seek(0, io.SeekStart); err != nil {
			return err
		}
		note := fmt.Sprintf("[log was full at %d bytes and starts over]\n", r.size)
		b = append(append([]byte(note), r.tail.Bytes()...), b...)
		b = b[max(0, len(b)-r.max):]
		r.size = 0
	}
	n, err := r.log.Write(b)
	r.size += n
	return err
}

// Wait waits for the end of what is recorded, which comes when the last process that could write is
// gone, and lets go of the log. It is called once. LastLines works on after it.
func (r *Recorder) Wait() {
	<-r.done
	_ = r.in.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.log != nil {
		_ = r.log.Close()
		r.log = nil
	}
}

// LastLines returns the end of what was written, fit for an error, led by the line
// in which a kernel says why it panicked if a long trace follows that.
func (r *Recorder) LastLines() string {
	r.mu.Lock()
	log := r.tail.Bytes()
	r.mu.Unlock()
	last := LastLines(log, 20, 4096)
	if i := bytes.LastIndex(log, []byte("Kernel panic - ")); i >= 0 {
		line, _, _ := bytes.Cut(log[i:], []byte("\n"))
		if reason := LastLines(line, 1, 256); !strings.Contains(last, reason) {
			return reason + "\n[...]\n" + last
		}
	}
	return last
}
