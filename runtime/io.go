// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"

	"cloister/runtime/stdio"
	"cloister/sandbox/guestapi"
)

// drainLimit bounds how long a Delete waits for output that still comes. Output that nobody reads
// is given up earlier, by stdio. Without a bound, a process that the workload has left behind with
// an open stdout could keep its container from being deleted.
const drainLimit = time.Minute

// tokens are what the guest gets in place of the client's paths; empty for none. A path would mean
// nothing in the guest, and would tell it of the host.
type tokens struct{ stdin, stdout, stderr string }

// openIO opens the client's streams and the guest's, and copies between them. A token is random, so
// that no process of the guest can claim another's stream by guessing. On an error nothing stays
// open.
func (p *process) openIO(ctx context.Context, guest Guest) (t tokens, err error) {
	io, err := stdio.Open(ctx, p.stdio)
	if err != nil {
		return t, err
	}
	streams := stdio.Streams{StdinEOF: func() { p.closeGuestStdin(ctx, guest) }}
	open := func(want bool, token *string, stream *stdio.Stream) {
		if !want || err != nil {
			return
		}
		name := strings.ToLower(rand.Text())
		var s stdio.Stream
		if s, err = guest.OpenStream(ctx, guestapi.Token(name)); err == nil {
			*token, *stream = name, s
		}
	}
	stdin, stdout, stderr := io.Wants()
	open(stdin, &t.stdin, &streams.Stdin)
	open(stdout, &t.stdout, &streams.Stdout)
	open(stderr, &t.stderr, &streams.Stderr)
	if err != nil {
		return t, errors.Join(err, closeStreams(streams), io.Close())
	}
	// Start takes the streams in every case, so only the IO is left to close.
	if err := io.Start(streams); err != nil {
		return t, errors.Join(err, io.Close())
	}
	p.mu.Lock()
	p.io = io
	p.mu.Unlock()
	return t, nil
}

// closeStreams closes what was opened of the guest's streams.
func closeStreams(s stdio.Streams) error {
	var errs []error
	for _, stream := range []stdio.Stream{s.Stdin, s.Stdout, s.Stderr} {
		if stream != nil {
			errs = append(errs, stream.Close())
		}
	}
	return errors.Join(errs...)
}

// closeGuestStdin tells the guest that no more input comes: by containerd's contract, a process's
// stdin ends with CloseIO. The client that closed its end may be gone.
func (p *process) closeGuestStdin(ctx context.Context, guest Guest) {
	ctx = context.WithoutCancel(ctx)
	_, err := guest.Task().CloseIO(ctx, &taskapi.CloseIORequest{ID: p.ref.Container, ExecID: p.ref.Exec, Stdin: true})
	if err != nil && !gone(err) {
		log.G(ctx).WithError(err).Debugf("close stdin of %s", p.ref)
	}
}

// streams is nil before a start, and for a pause container always.
func (p *process) streams() *stdio.IO {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.io
}

// closeStdin does nothing for a process without streams.
func (p *process) closeStdin() error {
	if io := p.streams(); io != nil {
		return io.CloseStdin()
	}
	return nil
}

// drain waits until the output has been delivered, nobody reads it, or the limit. Lost output is a
// warning in the log: a Delete must not fail for a client that reads no more.
func (p *process) drain(ctx context.Context) {
	io := p.streams()
	if io == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, drainLimit)
	defer cancel()
	if err := io.Wait(ctx); err != nil {
		log.G(ctx).WithError(err).Warnf("output of %s", p.ref)
	}
}

// closeIO ends the copies and closes everything; it may be repeated.
func (p *process) closeIO() error {
	if io := p.streams(); io != nil {
		return io.Close()
	}
	return nil
}

// ResizePty sets the size of a process's terminal, in characters.
func (r *Runtime) ResizePty(ctx context.Context, ref Ref, width, height uint32) error {
	c, p, err := r.process(ref)
	if err != nil || c.pause {
		return err
	}
	if state, _ := p.snapshot(); state == Created && ref.Exec != "" {
		return nil // the guest does not have it yet; clients set the size again once it runs
	}
	m, err := r.running()
	if err != nil {
		return err
	}
	_, err = m.Guest.Task().ResizePty(ctx, &taskapi.ResizePtyRequest{ID: ref.Container, ExecID: ref.Exec, Width: width, Height: height})
	return err
}

// CloseStdin ends a process's standard input once what was written has arrived. It does not wait
// for that, and may be repeated.
func (r *Runtime) CloseStdin(_ context.Context, ref Ref) error {
	_, p, err := r.process(ref)
	if err != nil {
		return err
	}
	return p.closeStdin()
}
