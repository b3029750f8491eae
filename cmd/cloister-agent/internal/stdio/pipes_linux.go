// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/fifo"
	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
)

// buffer is what one direction of data holds between FIFO and stream.
const buffer = 32 << 10

// Names are the tokens of a request, and the FIFOs that take their place.
// Empty: no such stream.
type Names struct{ Stdin, Stdout, Stderr string }

// Pipes are the FIFOs and streams of one process.
type Pipes struct {
	// Paths take the place of the tokens.
	Paths Names

	dir     string
	holders []*os.File // keep output FIFOs from reading EOF before the writer is there
	outputs []*output
	cancel  context.CancelFunc
	pumps   sync.WaitGroup
}

// Open makes the FIFOs below dir, takes the streams that names tell of and
// starts to copy. Close undoes it.
func (r *Registry) Open(ctx context.Context, dir string, names Names) (_ *Pipes, err error) {
	long, cancel := context.WithCancel(context.WithoutCancel(ctx))
	p := &Pipes{dir: dir, cancel: cancel}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if names == (Names{}) {
		return p, nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder for stdio: %w", err)
	}
	if names.Stdin != "" {
		if p.Paths.Stdin, err = r.openInput(ctx, long, p, names.Stdin); err != nil {
			return nil, fmt.Errorf("stdin: %w", err)
		}
	}
	if names.Stdout != "" {
		if p.Paths.Stdout, err = r.openOutput(ctx, p, names.Stdout); err != nil {
			return nil, fmt.Errorf("stdout: %w", err)
		}
	}
	if names.Stderr == names.Stdout {
		p.Paths.Stderr = p.Paths.Stdout
	} else if names.Stderr != "" {
		if p.Paths.Stderr, err = r.openOutput(ctx, p, names.Stderr); err != nil {
			return nil, fmt.Errorf("stderr: %w", err)
		}
	}
	return p, nil
}

func (r *Registry) makeFIFO(ctx context.Context, p *Pipes, name string) (string, *yamux.Stream, error) {
	token, err := guestapi.ParseToken(name)
	if err != nil {
		return "", nil, err
	}
	stream, err := r.Take(ctx, token)
	if err != nil {
		return "", nil, err
	}
	path := filepath.Join(p.dir, string(token))
	if err := unix.Mkfifo(path, 0o600); err != nil {
		_ = stream.Close()
		return "", nil, fmt.Errorf("make FIFO %s: %w", token, err)
	}
	return path, stream, nil
}

func (r *Registry) openInput(ctx, long context.Context, p *Pipes, name string) (string, error) {
	path, stream, err := r.makeFIFO(ctx, p, name)
	if err != nil {
		return "", err
	}
	p.pumps.Add(1)
	go p.input(long, path, stream)
	return path, nil
}

// input copies the host's bytes. The FIFO is opened once its reader is there,
// or the bytes of a writer that is quick to close would be lost.
func (p *Pipes) input(ctx context.Context, path string, stream *yamux.Stream) {
	defer p.pumps.Done()
	defer context.AfterFunc(ctx, func() { _ = stream.SetDeadline(time.Unix(1, 0)) })()
	if f, err := fifo.OpenFifo(ctx, path, unix.O_WRONLY, 0); err == nil {
		_, _ = io.CopyBuffer(f, stream, make([]byte, buffer))
		_ = f.Close()
	}
	// Tell the host that nobody reads any more, and do not hold it up.
	_ = stream.Close()
	_, _ = io.Copy(io.Discard, stream)
}

func (r *Registry) openOutput(ctx context.Context, p *Pipes, name string) (string, error) {
	path, stream, err := r.makeFIFO(ctx, p, name)
	if err != nil {
		return "", err
	}
	o := &output{stream: stream}
	holder, err := os.OpenFile(path, unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err == nil {
		p.holders = append(p.holders, holder)
		o.fifo, err = os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		_ = stream.Close()
		return "", fmt.Errorf("open FIFO: %w", err)
	}
	p.outputs = append(p.outputs, o)
	p.pumps.Add(1)
	go p.output(o)
	return path, nil
}

type output struct {
	fifo   *os.File
	stream *yamux.Stream
}

// output copies a process's bytes until the last writer has closed the FIFO,
// and then closes the stream. When the host takes no more, the rest is dropped
// so that the process can end.
func (p *Pipes) output(o *output) {
	defer p.pumps.Done()
	buf := make([]byte, buffer)
	_, err := io.CopyBuffer(struct{ io.Writer }{o.stream}, struct{ io.Reader }{o.fifo}, buf)
	if err != nil {
		_, _ = io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{o.fifo}, buf)
	}
	_ = o.fifo.Close()
	_ = o.stream.Close()
}

// Started tells that the process's own ends of the FIFOs are open, or that it
// has none: from here on EOF is EOF.
func (p *Pipes) Started() {
	for _, h := range p.holders {
		_ = h.Close()
	}
	p.holders = nil
}

// drain is how long Close waits for bytes that are on their way to the host.
const drain = time.Second

// Close ends the copying, when the process is gone. What the host has not
// taken by then is lost, within a bound of a second or so.
func (p *Pipes) Close() error {
	p.Started()
	p.cancel()
	now := time.Now()
	for _, o := range p.outputs {
		_ = o.stream.SetWriteDeadline(now.Add(drain))
		_ = o.fifo.SetReadDeadline(now.Add(drain))
	}
	p.pumps.Wait()
	var errs []error
	for _, path := range []string{p.Paths.Stdin, p.Paths.Stdout, p.Paths.Stderr} {
		if path == "" {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
