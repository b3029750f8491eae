// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// minPause and maxPause are how often a sink looks for a reader that has not come.
const (
	minPause = 10 * time.Millisecond
	maxPause = time.Second
)

// sink is where one output goes. Write is called by one goroutine; the others may be called
// meanwhile.
type sink interface {
	io.Writer
	// finish says that nothing will be written any more, so that readers see the end.
	finish() error
	// absent says that nobody would read what is written; false when that cannot be known.
	absent() bool
	// unread is how many bytes wait for a reader; 0 when that cannot be known.
	unread() int
	// Close frees everything and ends a Write that is under way.
	Close() error
}

// fifoSink writes to a FIFO. It keeps the FIFO open for reading as well: readers come and go
// without the writer noticing more than a full pipe, and what was written while nobody read is
// there for the next reader. So a client that detaches and attaches again, or a containerd that
// restarts, loses nothing.
type fifoSink struct {
	path string
	w    *os.File

	mu     sync.Mutex
	r      *os.File
	closed bool
	done   chan struct{} // closed by Close
}

// openFIFOSink opens both ends without waiting for anybody: a client may open its end after the
// call that named the FIFO, or never.
func openFIFOSink(path string) (*fifoSink, error) {
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	// Does not block and does not fail: there is a reader, ours.
	w, err := os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return &fifoSink{path: path, w: w, r: r, done: make(chan struct{})}, nil
}

// Write blocks while the pipe is full, in the runtime's poller: Close ends it. EPIPE comes only
// while absent has closed our reader.
func (s *fifoSink) Write(p []byte) (int, error) {
	written := 0
	for {
		n, err := s.w.Write(p[written:])
		written += n
		if !errors.Is(err, unix.EPIPE) {
			return written, err
		}
		// absent looked just now: nothing of this write is in the pipe yet.
		if err := s.holdReader(); err != nil {
			return written, err
		}
	}
}

// holdReader opens our reader again when absent has closed it.
func (s *fifoSink) holdReader() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.openReader()
}

// openReader opens our reader if it is not open. mu is held.
func (s *fifoSink) openReader() error {
	if s.closed {
		return os.ErrClosed
	}
	if s.r != nil {
		return nil
	}
	// Through the open descriptor: the name may be gone or be another file by now.
	path, err := descriptorPath(s.w)
	if err != nil {
		return err
	}
	s.r, err = os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	return err
}

// absent lets go of our own reader for a moment: if it was the last one, poll(2) reports an error
// for the writer. The pipe keeps its contents meanwhile, since its writer is open. A Write that
// meets the moment gets EPIPE and is repeated.
func (s *fifoSink) absent() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	if s.r != nil { // nil: there were no descriptors to open it again
		_ = s.r.Close()
		s.r = nil
	}
	alone := hasError(s.w)
	if err := s.openReader(); err != nil {
		return true
	}
	return alone
}

// unread asks for the bytes in the pipe. Clients that read from it stop when they learn of the
// exit.
func (s *fifoSink) unread() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed || s.r == nil {
		return 0
	}
	n, err := unix.IoctlGetInt(int(s.r.Fd()), unix.TIOCINQ) // FIONREAD by its other name
	if err != nil {
		return 0
	}
	return n
}

// finish closes the writer; our reader stays, so that the pipe keeps its bytes until they are read.
// While no client has the FIFO open, the writer stays too: containerd opens it in the background,
// in an open(2) that waits for a writer. A process may have ended by then, and that open would
// never return.
func (s *fifoSink) finish() error {
	if !s.absent() {
		return closeOnce(s.w)
	}
	go s.awaitReader()
	return nil
}

// awaitReader closes the writer as soon as a client reads; Close ends it. Nothing tells of an open
// by somebody else, so it looks, ever more rarely: a client that is only late comes at once.
func (s *fifoSink) awaitReader() {
	for pause := minPause; s.absent(); pause = min(2*pause, maxPause) {
		select {
		case <-s.done:
			return
		case <-time.After(pause):
		}
	}
	_ = closeOnce(s.w)
}

// Close closes both ends. What nobody has read is gone then.
func (s *fifoSink) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	close(s.done)
	err := closeOnce(s.w)
	if s.r != nil {
		err = errors.Join(err, s.r.Close())
	}
	return err
}

// fileSink appends to a file, or writes to what the path is (a device, say). Nobody can tell
// whether a file is read, so nothing waits for it.
type fileSink struct{ f *os.File }

func (s fileSink) Write(p []byte) (int, error) { return s.f.Write(p) }
func (s fileSink) finish() error               { return nil }
func (s fileSink) unread() int                 { return 0 }
func (s fileSink) absent() bool                { return false }
func (s fileSink) Close() error                { return closeOnce(s.f) }

// pipeSink is a logger's pipe.
type pipeSink struct{ w *os.File }

func (s pipeSink) Write(p []byte) (int, error) { return s.w.Write(p) }
func (s pipeSink) finish() error               { return closeOnce(s.w) }
func (s pipeSink) unread() int                 { return 0 }
func (s pipeSink) absent() bool                { return hasError(s.w) }
func (s pipeSink) Close() error                { return closeOnce(s.w) }

// closeOnce closes a file that may be closed already: finish and Close may both come.
func closeOnce(f *os.File) error {
	if err := f.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return err
	}
	return nil
}

// hasError says whether poll reports an error for f: for a pipe's writer, that there is no reader.
func hasError(f *os.File) bool {
	found := false
	_ = control(f, func(fd int) {
		fds := []unix.PollFd{{Fd: int32(fd)}}
		n, err := unix.Poll(fds, 0)
		found = err == nil && n > 0 && fds[0].Revents&unix.POLLERR != 0
	})
	return found
}

// descriptorPath is a name for an open file that opens that very file again.
func descriptorPath(f *os.File) (string, error) {
	path := ""
	err := control(f, func(fd int) { path = fmt.Sprintf("/proc/self/fd/%d", fd) })
	return path, err
}

// control runs fn with f's descriptor, without changing its mode as Fd would: a blocking descriptor
// could not be ended by Close.
func control(f *os.File, fn func(fd int)) error {
	c, err := f.SyscallConn()
	if err != nil {
		return err
	}
	return c.Control(func(fd uintptr) { fn(int(fd)) })
}

// source is the host's end of stdin: a FIFO that clients write to, or any file that is read to its
// end.
type source struct {
	r *os.File

	mu sync.Mutex
	// hold is our own writer: the end of the last client's writing is no end of stdin, a client may
	// attach again. CloseStdin lets it go.
	hold *os.File
}

// openSource opens stdin without waiting for a writer.
func openSource(path string) (*source, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	r, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	s := &source{r: r}
	if info.Mode().Type() != os.ModeNamedPipe {
		return s, nil
	}
	s.hold, err = os.OpenFile(path, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return s, nil
}

// release closes our own writer. The copy then ends as soon as no client has the FIFO open.
func (s *source) release() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hold == nil {
		return nil
	}
	err := s.hold.Close()
	s.hold = nil
	return err
}

func (s *source) Close() error { return errors.Join(s.release(), closeOnce(s.r)) }
