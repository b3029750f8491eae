// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// streams connects this process's descriptors with the daemon, which opens paths. An engine's pipe
// is opened by the daemon itself, through /proc: no byte passes here, and the engine sees its end
// when the guest's stream ends. All else (a terminal, a file with its offset, a socket, and stdin,
// whose end must be told) is copied through a pipe.
type streams struct {
	stdin, stdout, stderr string // for the daemon; empty for none

	null   *os.File // takes the place of what the daemon has opened
	copies []func()
	given  []*os.File // descriptors that are the daemon's alone once it has opened them
	ends   []*os.File // the daemon's ends of the pipes of outputs

	stdinEnd *os.File // the daemon's end of stdin's pipe; nil for none
	input    func(eof func())
	done     sync.WaitGroup
}

// openStreams prepares the streams of the process; terminal is nil for none. It must be called in
// the process that stays: the names lead to this process's descriptors, and are good while it holds
// them open.
func openStreams(terminal *os.File) (*streams, error) {
	s := &streams{}
	var err error
	if s.null, err = os.OpenFile(os.DevNull, os.O_RDWR, 0); err != nil {
		return nil, err
	}
	// The daemon's /proc is the host's, where this process has another pid than in its own
	// namespace.
	pid, err := hostPID()
	if err != nil {
		return nil, err
	}
	name := func(f *os.File) string { return fmt.Sprintf("/proc/%d/fd/%d", pid, f.Fd()) }
	in, out, errs := os.Stdin, os.Stdout, os.Stderr
	if terminal != nil {
		in, out, errs = terminal, terminal, nil
	}
	if s.stdin, err = s.read(in, name); err != nil {
		return nil, err
	}
	if s.stdout, err = s.write(out, name); err != nil {
		return nil, err
	}
	s.stderr, err = s.write(errs, name)
	return s, err
}

// read gives the daemon's name for stdin. It is always copied, so that its end can be told by
// CloseIO.
func (s *streams) read(f *os.File, name func(*os.File) string) (string, error) {
	if mode, null := kind(f); mode == 0 || null {
		return "", nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	// This process holds the daemon's end for as long as it lives. containerd's packages for plain
	// containers open stdin after they have answered the call that names it: closed by then, what
	// is in the pipe would be lost, and the name lead nowhere.
	s.stdinEnd = r
	// The end is told by a call (CloseIO) after the pipe is closed, since the daemon holds its end
	// open.
	s.input = func(eof func()) {
		_, _ = io.Copy(w, f) // ends with the process, too
		_ = w.Close()
		eof()
	}
	return name(r), nil
}

// write gives the daemon's name for an output; empty where nobody wants it.
func (s *streams) write(f *os.File, name func(*os.File) string) (string, error) {
	if f == nil {
		return "", nil
	}
	switch mode, null := kind(f); {
	case mode == 0 || null:
		return "", nil
	case mode == unix.S_IFIFO:
		// The engine's pipe itself: no copy, and backpressure of its reader reaches the guest.
		s.given = append(s.given, f)
		return name(f), nil
	}
	// A file opened anew by name would be written from its start, and a socket cannot be opened by
	// name at all.
	r, w, err := os.Pipe()
	if err != nil {
		return "", err
	}
	s.ends = append(s.ends, w)
	s.copies = append(s.copies, func() { _, _ = io.Copy(f, r) }) // nobody is left to tell of an error
	return name(w), nil
}

// kind is the type of an open file, 0 for none, and whether it is /dev/null. A stream that engines
// leave closed, or lead to /dev/null, is none: the guest then makes no pipe for it.
func kind(f *os.File) (mode uint32, null bool) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return 0, false
	}
	return st.Mode & unix.S_IFMT, st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// start begins to copy and lets go of what the daemon has opened. eof is called at the end of
// stdin. It is called after the daemon has opened its ends. Before, closing them would leave names
// that lead nowhere.
func (s *streams) start(eof func()) error {
	for _, copying := range s.copies {
		s.done.Go(copying)
	}
	if s.input != nil {
		go s.input(eof)
	}
	var errs []error
	for _, f := range s.ends {
		errs = append(errs, f.Close())
	}
	// The descriptor's number stays in use, by /dev/null: closed, the next file that this process
	// opens would be its stdout. The pipe has to be let go, or the engine would never see its end.
	for _, f := range s.given {
		errs = append(errs, unix.Dup3(int(s.null.Fd()), int(f.Fd()), 0))
	}
	return errors.Join(append(errs, s.null.Close())...)
}

// wait returns when all output has been delivered, or after most. Pipes that the daemon has opened
// are not waited for: the daemon waits for those.
func (s *streams) wait(most time.Duration) {
	done := make(chan struct{})
	go func() {
		s.done.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(most):
	}
}
