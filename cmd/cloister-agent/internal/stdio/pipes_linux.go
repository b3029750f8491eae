// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
)

const (
	// buffer is what one direction of data holds between pipe and stream. With its
	// frame's header it fills two writes to a virtio-serial port, of 32 KiB each
	// (port_fops_write of the kernel's virtio_console.c).
	buffer = 64<<10 - 12
	// pipeSize lets the process go on while the agent sends.
	pipeSize = 256 << 10
	// drain is how long Close waits for bytes that are on their way to the host:
	// as long as containerd does. A host that never reads must not keep a container from being
	// deleted.
	drain = 10 * time.Second
)

// Names are the tokens of a request, or the FIFOs that take their place.
// Empty: no such stream.
type Names struct{ Stdin, Stdout, Stderr string }

// Pipes are the standard streams of one process. A Pipes belongs to one process. Methods are called
// by one goroutine at a time, except for ExecFailed.
type Pipes struct {
	// FIFOs are the paths of a terminal's data; otherwise empty.
	FIFOs Names
	// Stdin, Stdout and Stderr are the process's ends, nil where there is no
	// such stream, or a terminal. Started closes them.
	Stdin, Stdout, Stderr *os.File

	ends    []io.Closer // to be closed by Started
	outputs []output
	inputs  []*yamux.Stream
	cancel  context.CancelFunc
	pumps   sync.WaitGroup
	done    chan struct{} // closed when the outputs are drained
	outs    sync.WaitGroup

	decide  sync.Once
	decided chan struct{} // closed when it is known whether there is a process
	dropped bool          // there is none: what was written is the runtime's; set before decided is closed
	failure failure
}

// output is one direction of data to the host.
type output struct {
	from    *os.File
	stream  *yamux.Stream
	carries bool // the runtime's last words: stderr, or a terminal
}

// Open takes the streams that names tell of, makes the pipes, or FIFOs below
// dir for a terminal, and starts to copy. Close undoes it. On an error nothing is left open, and
// the tokens are used up: the host has to make new ones.
func (r *Registry) Open(ctx context.Context, dir string, terminal bool, names Names) (*Pipes, error) {
	// A call's context ends with the call, the copying with the process.
	long, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &Pipes{cancel: cancel, done: make(chan struct{}), decided: make(chan struct{}), failure: failure{seen: make(chan struct{})}}
	open := r.openPipes
	if terminal {
		open = func(ctx context.Context, p *Pipes, names Names) error { return r.openFIFOs(ctx, long, p, dir, names) }
	}
	err := open(ctx, p, names)
	// Started before the error is looked at: Close waits for done.
	go p.awaitOutputs()
	if err != nil {
		return nil, errors.Join(err, p.Close(ctx))
	}
	return p, nil
}

// openPipes makes a pipe for each name. An error leaves what was made to Close.
func (r *Registry) openPipes(ctx context.Context, p *Pipes, names Names) error {
	var err error
	if names.Stdin != "" {
		if p.Stdin, err = r.inputPipe(ctx, p, names.Stdin); err != nil {
			return fmt.Errorf("stdin: %w", err)
		}
	}
	// One token for both means one pipe, so that the order of lines is the process's own.
	if names.Stdout != "" {
		if p.Stdout, err = r.outputPipe(ctx, p, names.Stdout, names.Stderr == names.Stdout); err != nil {
			return fmt.Errorf("stdout: %w", err)
		}
	}
	if names.Stderr == names.Stdout {
		p.Stderr = p.Stdout
		return nil
	}
	if names.Stderr != "" {
		// Of two outputs, stderr carries the runtime's report.
		if p.Stderr, err = r.outputPipe(ctx, p, names.Stderr, true); err != nil {
			return fmt.Errorf("stderr: %w", err)
		}
	}
	return nil
}

// stream takes the host's stream of a token.
func (r *Registry) stream(ctx context.Context, name string) (*yamux.Stream, error) {
	token, err := guestapi.ParseToken(name)
	if err != nil {
		return nil, err
	}
	return r.Take(ctx, token)
}

// inputPipe gives the process's end of a new pipe, which a goroutine fills.
func (r *Registry) inputPipe(ctx context.Context, p *Pipes, name string) (*os.File, error) {
	stream, err := r.stream(ctx, name)
	if err != nil {
		return nil, err
	}
	theirs, ours, err := os.Pipe()
	if err != nil {
		_ = stream.Close()
		return nil, err
	}
	p.ends = append(p.ends, theirs)
	// Programs open /dev/stdin and /dev/stdout by name; the kernel then checks the pipe's owner.
	if err := theirs.Chown(r.uid, r.gid); err != nil {
		_ = stream.Close()
		return nil, errors.Join(err, ours.Close())
	}
	p.inputs = append(p.inputs, stream)
	p.pumps.Add(1)
	go p.pumpIn(ours, stream)
	return theirs, nil
}

// outputPipe gives the process's end of a new pipe, which a goroutine empties.
func (r *Registry) outputPipe(ctx context.Context, p *Pipes, name string, carries bool) (*os.File, error) {
	stream, err := r.stream(ctx, name)
	if err != nil {
		return nil, err
	}
	ours, theirs, err := os.Pipe()
	if err != nil {
		_ = stream.Close()
		return nil, err
	}
	enlarge(ours)
	p.ends = append(p.ends, theirs)
	if err := theirs.Chown(r.uid, r.gid); err != nil {
		_ = stream.Close()
		return nil, errors.Join(err, ours.Close())
	}
	p.addOutput(output{ours, stream, carries})
	return theirs, nil
}

// enlarge is a wish: a pipe of the usual size does as well. The kernel refuses it to users who hold
// too many pages in pipes.
func enlarge(f *os.File) {
	c, err := f.SyscallConn()
	if err != nil {
		return
	}
	_ = c.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
}

// addOutput starts the copying of one output. Both groups are raised before the goroutine runs, so
// that no wait misses it.
func (p *Pipes) addOutput(o output) {
	p.outputs = append(p.outputs, o)
	p.pumps.Add(1)
	p.outs.Add(1)
	go p.pumpOut(o)
}

// plain hides the methods that io.Copy would rather use than our buffer.
type plain struct {
	io.Reader
	io.Writer
}

// pumpIn copies the host's bytes to the process until the host closes.
func (p *Pipes) pumpIn(to io.WriteCloser, stream *yamux.Stream) {
	// The host half-closes the stream, or drops it, to end the input.
	defer p.pumps.Done()
	_, err := io.CopyBuffer(plain{Writer: to}, plain{Reader: stream}, make([]byte, buffer))
	_ = to.Close()
	// Tell the host that nobody reads any more, and do not hold it up. The process has closed its
	// stdin: the host sees it by the closed stream.
	_ = stream.Close()
	if err != nil {
		// Bytes that are on their way would otherwise fill the window of the stream.
		_, _ = io.Copy(io.Discard, stream)
	}
}

// pumpOut copies a process's bytes until the last writer has closed its end,
// and then closes the stream. When the host takes no more, the rest is dropped
// so that the process can end. Nothing is sent before it is known whether there
// is a process: until then only the runtime writes.
func (p *Pipes) pumpOut(o output) {
	defer p.pumps.Done()
	defer p.outs.Done()
	// Holds everything back, also for a process that runs: Started follows within the call.
	<-p.decided
	buf := make([]byte, buffer)
	var to io.Writer = o.stream
	if o.carries {
		// examine(nil) for a process that wrote nothing: ExecFailed does not wait then.
		defer p.failure.examine(nil)
		to = &p.failure
		p.failure.to = o.stream
	}
	if p.dropped {
		to = io.Discard
	}
	// A host that went away must not block the process on a full pipe: it would never end.
	if _, err := io.CopyBuffer(plain{Writer: to}, plain{Reader: o.from}, buf); err != nil {
		_, _ = io.CopyBuffer(plain{Writer: io.Discard}, plain{Reader: o.from}, buf)
	}
	_ = o.from.Close()
	_ = o.stream.Close()
}

// awaitOutputs closes done when every output is drained. It needs no limit: Close makes the pumps
// end.
func (p *Pipes) awaitOutputs() {
	p.outs.Wait()
	close(p.done)
}

// Started tells that the process has its ends of the pipes, or that there is
// none to have them: from here on EOF is EOF. The agent's copies of the process's ends are closed
// here. While it holds one, the pipe has a writer, and its reader never sees EOF.
func (p *Pipes) Started() {
	p.decide.Do(func() { close(p.decided) })
	for _, end := range p.ends {
		_ = end.Close()
	}
	p.ends = nil
}

// Discard tells that there is no process: what the runtime has written into its
// streams is dropped. The call's error has the same words. It is Started as well; either may be
// called twice.
func (p *Pipes) Discard() {
	p.decide.Do(func() {
		p.dropped = true
		close(p.decided)
	})
	p.Started()
}

// ExecFailed says, of a process that has ended, whether its program could not be
// executed. Call it before Close. It waits up to failureWait.
func (p *Pipes) ExecFailed() bool {
	return slices.ContainsFunc(p.outputs, func(o output) bool { return o.carries }) && p.failure.wait()
}

// Close ends the copying after the process has ended. It waits for the host to read the output that
// is still in the pipes, until ctx ends or a limit has passed; the rest is lost. Call it once,
// after the process has ended or was never made. It returns when no goroutine of the process is
// left, so that a folder or id can be used again.
func (p *Pipes) Close(ctx context.Context) error {
	p.Started()
	timer := time.NewTimer(drain)
	defer timer.Stop()
	select {
	case <-p.done:
	case <-timer.C:
	case <-ctx.Done():
	}
	// Deadlines in the past end blocked reads and writes without closing the files under them.
	p.cancel()
	for _, o := range p.outputs {
		_ = o.stream.SetWriteDeadline(time.Unix(1, 0))
		_ = o.from.SetReadDeadline(time.Unix(1, 0))
	}
	for _, s := range p.inputs {
		_ = s.SetReadDeadline(time.Unix(1, 0))
	}
	p.pumps.Wait()
	return p.removeFIFOs()
}
