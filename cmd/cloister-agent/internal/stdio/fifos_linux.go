// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/fifo"
	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"
)

// openFIFOs makes the FIFOs that containerd's package copies to and from the terminal. ctx is the
// call's, long lives until Close: the call ends long before the process does.
func (r *Registry) openFIFOs(ctx, long context.Context, p *Pipes, dir string, names Names) error {
	// Only the agent reads and writes here; a container never sees the folder.
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make folder for stdio: %w", err)
	}
	var err error
	if names.Stdin != "" {
		if p.FIFOs.Stdin, err = r.inputFIFO(ctx, long, p, dir, names.Stdin); err != nil {
			return fmt.Errorf("stdin: %w", err)
		}
	}
	if names.Stdout != "" {
		if p.FIFOs.Stdout, err = r.outputFIFO(ctx, p, dir, names.Stdout); err != nil {
			return fmt.Errorf("stdout: %w", err)
		}
	}
	return nil // a terminal has no stderr
}

// makeFIFO takes the stream before it makes the file, so that a wrong token leaves nothing behind.
// Names are tokens, which are unique.
func (r *Registry) makeFIFO(ctx context.Context, dir, name string) (string, *yamux.Stream, error) {
	stream, err := r.stream(ctx, name)
	if err != nil {
		return "", nil, err
	}
	path := filepath.Join(dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		_ = stream.Close()
		return "", nil, fmt.Errorf("make FIFO: %w", err)
	}
	return path, stream, nil
}

// inputFIFO joins the host's input with a FIFO.
func (r *Registry) inputFIFO(ctx, long context.Context, p *Pipes, dir, name string) (string, error) {
	path, stream, err := r.makeFIFO(ctx, dir, name)
	if err != nil {
		return "", err
	}
	p.inputs = append(p.inputs, stream)
	p.pumps.Add(1)
	go p.pumpInFIFO(long, path, stream)
	return path, nil
}

// pumpInFIFO opens the FIFO once its reader is there: the bytes of a writer
// that is quick to close would be lost. The wait ends with ctx, which Close cancels: a process that
// was never started has no reader.
func (p *Pipes) pumpInFIFO(ctx context.Context, path string, stream *yamux.Stream) {
	f, err := fifo.OpenFifo(ctx, path, unix.O_WRONLY, 0)
	if err != nil { // closed before it was started
		_ = stream.Close()
		p.pumps.Done()
		return
	}
	p.pumpIn(f, stream)
}

// outputFIFO holds the FIFO open for writing as well, or it would read EOF
// before its writer is there. Started closes that end; from then on the writer's own close is the
// end of the output.
func (r *Registry) outputFIFO(ctx context.Context, p *Pipes, dir, name string) (string, error) {
	path, stream, err := r.makeFIFO(ctx, dir, name)
	if err != nil {
		return "", err
	}
	// Without NONBLOCK the open would wait for a writer, and the writer is started after this call.
	holder, err := os.OpenFile(path, unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		_ = stream.Close()
		return "", err
	}
	p.ends = append(p.ends, holder)
	from, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		_ = stream.Close()
		return "", err
	}
	p.addOutput(output{from, stream, true})
	return path, nil
}

// removeFIFOs joins errors: one file that stays is no reason to leave the other.
func (p *Pipes) removeFIFOs() error {
	var errs []error
	for _, path := range []string{p.FIFOs.Stdin, p.FIFOs.Stdout} {
		if path == "" {
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
