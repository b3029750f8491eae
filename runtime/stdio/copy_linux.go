// SPDX-License-Identifier: Apache-2.0

package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	// bufferSize is the pipe size of Linux (pipe(7)): what one write can hand over at once.
	bufferSize = 64 << 10
	// pollInterval is how often Wait looks for a writer that is stuck; an end wakes it at once.
	pollInterval = 100 * time.Millisecond
	// settlePoll and settleAfter are how often Settle looks, and how long output may pause.
	settlePoll  = 5 * time.Millisecond
	settleAfter = 250 * time.Millisecond
	// settleLimit bounds Settle while output still moves. It is as long as containerd's shim for
	// runc waits for the output of a process that has ended.
	settleLimit = 10 * time.Second
	// stuckAfter is how long a write must hang before Wait asks whether anybody reads. To ask, the
	// FIFO is without our reader for a moment, so it is not done for a reader that is just slow.
	stuckAfter = time.Second
)

// output copies one stream of the guest into a sink. The counters are read by Wait and Settle while
// the copy runs.
type output struct {
	name    string
	sink    sink
	running bool // set before the copy's goroutine starts

	done    chan struct{}
	err     error        // valid when done is closed
	writing atomic.Int64 // when the write under way began, in Unix nanoseconds; 0 for none
	lost    atomic.Int64 // bytes read and not delivered
	moved   atomic.Int64 // bytes read from the guest
}

func newOutput(name string, s sink) *output {
	return &output{name: name, sink: s, done: make(chan struct{})}
}

// copyFrom copies until the stream ends. A sink that refuses data (a full disk, a dead logger) must
// not stop the container: what follows is read and dropped. If nobody read the stream, the process
// in the guest would hang in its next write.
func (o *output) copyFrom(stream Stream) {
	defer close(o.done)
	buf := make([]byte, bufferSize)
	for {
		n, err := stream.Read(buf)
		if n > 0 {
			o.moved.Add(int64(n))
			o.write(buf[:n])
		}
		if err != nil {
			if !errors.Is(err, io.EOF) {
				o.err = errors.Join(o.err, fmt.Errorf("read from guest: %w", err))
			}
			break
		}
	}
	if lost := o.lost.Load(); lost > 0 {
		o.err = fmt.Errorf("%d bytes were not delivered: %w", lost, o.err)
	}
	o.err = errors.Join(o.err, o.sink.finish())
}

// write hands bytes to the sink. After the first that were lost no more are written, only counted.
func (o *output) write(p []byte) {
	if o.lost.Load() > 0 {
		o.lost.Add(int64(len(p)))
		return
	}
	o.writing.Store(time.Now().UnixNano())
	n, err := o.sink.Write(p)
	o.writing.Store(0)
	if err != nil {
		o.lost.Add(int64(len(p) - n))
		o.err = err
	}
}

// stuck says that a write has hung for a while because nobody reads. A reader that is there and
// slow is waited for.
func (o *output) stuck(now time.Time) bool {
	since := o.writing.Load()
	return since != 0 && now.Sub(time.Unix(0, since)) >= stuckAfter && o.sink.absent()
}

// Wait returns when all output of the guest is delivered, which takes the end of the streams: call
// it after the process has ended. It gives up on an output that nobody reads, and on all when ctx
// is done; the error names what was not delivered. It may be called more than once, and at once
// with Settle.
func (i *IO) Wait(ctx context.Context) error {
	var err error
	for _, o := range i.out {
		if o == nil || !o.isRunning(i) {
			continue
		}
		if werr := o.wait(ctx); werr != nil {
			err = errors.Join(err, fmt.Errorf("%s: %w", o.name, werr))
		}
	}
	return err
}

// Settle returns when the output of a process that has ended has reached its readers, or when it
// has not moved for a moment: nobody reads it, or something else still holds the guest's end.
// Clients stop reading when they learn of the exit, so the exit waits for this. The pause is 250
// ms: an exit must not be held back for a client that reads nothing. After 10 s it returns in any
// case: a process that was left behind may write to the same stream for ever.
func (i *IO) Settle(ctx context.Context) { i.settle(ctx, settleAfter, settleLimit) }

func (i *IO) settle(ctx context.Context, pause, limit time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	tick := time.NewTicker(settlePoll)
	defer tick.Stop()
	var last int64
	still := time.Now()
	for {
		pending, state := i.pending()
		if !pending {
			return
		}
		now := time.Now()
		if state != last {
			last, still = state, now
		} else if now.Sub(still) >= pause {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

// pending tells whether output is still on its way, and a number that changes whenever some of it
// moves. Bytes that come from the guest raise it, and so do bytes that a reader takes.
func (i *IO) pending() (pending bool, state int64) {
	for _, o := range i.out {
		if o == nil || !o.isRunning(i) {
			continue
		}
		unread := o.sink.unread()
		select {
		case <-o.done:
			pending = pending || unread > 0
		default:
			pending = true
		}
		// Twice, so that a byte which only goes from the guest into the FIFO changes the number
		// too.
		state += 2*o.moved.Load() - int64(unread)
	}
	return pending, state
}

// isRunning says that Start has begun the copy; an IO that was only opened has nothing to wait for.
func (o *output) isRunning(i *IO) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return o.running
}

// wait returns when the copy has ended, when nobody reads, or when ctx is done.
func (o *output) wait(ctx context.Context) error {
	tick := time.NewTicker(pollInterval)
	defer tick.Stop()
	for {
		select {
		case <-o.done:
			return o.err
		case <-ctx.Done():
			return fmt.Errorf("output is not drained: %w", ctx.Err())
		case now := <-tick.C:
			if o.stuck(now) {
				return errors.New("output is not drained: nobody reads it")
			}
		}
	}
}

// copyStdin copies until stdin ends on the host or the guest does not want more. StdinEOF is called
// for the first alone: in the second case the process has closed its stdin itself, or has ended.
func (i *IO) copyStdin() {
	buf := make([]byte, bufferSize)
	_, err := io.CopyBuffer(onlyWriter{i.streams.Stdin}, onlyReader{i.stdin.r}, buf)
	// Writers must see that nobody reads any more.
	_ = i.stdin.Close()
	_ = i.streams.Stdin.CloseWrite()
	if err == nil && i.streams.StdinEOF != nil {
		i.streams.StdinEOF()
	}
}

// onlyReader and onlyWriter hide ReadFrom and WriteTo: splice(2) has nothing to offer here.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)
