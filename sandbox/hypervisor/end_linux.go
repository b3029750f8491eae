// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"
)

const (
	// lingerLimit is how long QEMU may take to end once its guest has hung up or its file server
	// has ended. QEMU's own end says more than either, and a QEMU that is killed hangs up first.
	lingerLimit = 2 * time.Second
	// endLimit is how long a machine may take to end once its channel has.
	endLimit = 10 * time.Second
)

// Guest is the connection to the agent, as far as the machine's end shows in it. Done is closed
// when the connection has ended; Err says why from then on.
type Guest interface {
	Done() <-chan struct{}
	Err() error
}

// End says how a machine ended. It does not change once Watch has returned.
type End struct {
	Reason      error // nil when this host asked for it
	OutOfMemory bool  // the host killed the machine in its cgroup or one above it
}

// ending is what is known of a machine's end. asked must be set before anything ends the machine,
// or the end looks like a crash.
type ending struct {
	asked atomic.Bool   // the host wants the machine to end
	done  chan struct{} // closed when the machine has ended
	why   End           // set before done is closed
}

// Greeted adds the connection to the agent, whose end is the machine's from now on. It is called
// before Watch.
func (v *VM) Greeted(g Guest) { v.guest = g }

// Watch returns when QEMU, the agent's connection or the file server has ended, and ends the
// others: without any of them the machine is of no use. It is called once, after Greeted. The End
// is known before the channel closes, so whoever waits reads all of it.
func (v *VM) Watch() End {
	var files <-chan struct{} // of no file server: never
	if v.Files != nil {
		files = v.Files.Done()
	}
	select {
	case <-v.Machine.Done():
	case <-v.guest.Done():
		v.linger()
	case <-files:
		v.linger()
	}
	v.end.why = v.reason()
	// The file server ends by itself when QEMU hangs up.
	_ = v.Machine.Kill()
	close(v.end.done)
	return v.end.why
}

// Ended is closed when Watch has seen the end.
func (v *VM) Ended() <-chan struct{} { return v.end.done }

// Wait blocks until the machine has ended and says why.
func (v *VM) Wait() End {
	<-v.end.done
	return v.end.why
}

// ExpectEnd says that the host wants the machine to end.
func (v *VM) ExpectEnd() { v.end.asked.Store(true) }

// Halt ends the machine without a word to the guest. What the guest has not written back to its
// disks is lost; files of the share are with the file server. It may be called more than once.
func (v *VM) Halt() error {
	v.ExpectEnd()
	if err := v.Machine.Kill(); err != nil {
		return err
	}
	<-v.end.done
	return nil
}

// linger waits for QEMU's own end, whose reason says more.
func (v *VM) linger() {
	timer := time.NewTimer(lingerLimit)
	defer timer.Stop()
	select {
	case <-v.Machine.Done():
	case <-timer.C:
	}
}

// reason says why the machine is ending or has ended. The reasons are joined in the order of what
// they explain: the host's lack of memory, then the processes' own words, then the guest's
// connection.
func (v *VM) reason() End {
	oom := v.OutOfMemory()
	if v.end.asked.Load() {
		return End{OutOfMemory: oom != nil}
	}
	why := errors.Join(oom, v.Machine.Err())
	if v.Files != nil {
		why = errors.Join(why, v.Files.Err())
	}
	// QEMU that ends with status 0 and without an error was powered off from within.
	if why == nil && v.guest != nil {
		select {
		case <-v.Machine.Done():
			why = errors.New("the guest powered off")
		default:
			why = v.guest.Err()
		}
	}
	return End{Reason: why, OutOfMemory: oom != nil}
}

// explained is an error of a guest call with the machine's end. It keeps the classes of both
// errors.
type explained struct{ err, end error }

func (e *explained) Error() string   { return fmt.Sprintf("%v: %v", e.err, e.end) }
func (e *explained) Unwrap() []error { return []error{e.err, e.end} }

// Explain adds the reason of the machine's end, if it has ended, to an error of a guest call. An
// error that has it already stays as it is.
func (v *VM) Explain(err error) error {
	if _, done := errors.AsType[*explained](err); err == nil || done {
		return err
	}
	// The connection is closed a moment before QEMU's exit is known.
	if v.guest != nil && v.guest.Err() != nil {
		v.linger()
	}
	select {
	case <-v.Machine.Done():
	default:
		return err
	}
	if end := v.reason(); end.Reason != nil {
		return &explained{err, end.Reason}
	}
	return err
}

// Silent explains why no hello came. A machine that has ended says it itself: who reads of its end
// on the channel may be earlier than who waits for the process. A machine that still runs has the
// last lines of its console in the error: a kernel that panics says so there.
func (v *VM) Silent(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		select {
		case <-v.Machine.Done():
		case <-time.After(endLimit):
		}
	}
	select {
	case <-v.Machine.Done():
		return errors.Join(err, v.OutOfMemory(), v.Machine.Err())
	default:
		return fmt.Errorf("%w\nconsole: %s", err, v.Machine.ConsoleTail())
	}
}
