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

// Guest is the connection to the agent, as far as the machine's end shows in it.
type Guest interface {
	Done() <-chan struct{}
	Err() error
}

// End says how a machine ended.
type End struct {
	Reason      error // nil when this host asked for it
	OutOfMemory bool  // the host killed the machine in its cgroup or one above it
}

// ending is what is known of a machine's end.
type ending struct {
	asked atomic.Bool   // the host wants the machine to end
	done  chan struct{} // closed when the machine has ended
	why   End           // set before done is closed
}

// Greeted adds the connection to the agent, whose end is the machine's from now on.
func (v *VM) Greeted(g Guest) { v.guest = g }

// Watch returns when QEMU, the agent's connection or the file server has ended, and ends the
// others: without any of them the machine is of no use. It is called once, after Greeted.
func (v *VM) Watch() End {
	select {
	case <-v.Machine.Done():
	case <-v.guest.Done():
		v.linger()
	case <-v.Files.Done():
		v.linger()
	}
	v.end.why = v.reason()
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

// Halt ends the machine without a word to the guest.
func (v *VM) Halt() error {
	v.ExpectEnd()
	if err := v.Machine.Kill(); err != nil {
		return err
	}
	<-v.end.done
	return nil
}

func (v *VM) linger() {
	timer := time.NewTimer(lingerLimit)
	defer timer.Stop()
	select {
	case <-v.Machine.Done():
	case <-timer.C:
	}
}

// reason says why the machine is ending or has ended.
func (v *VM) reason() End {
	oom := v.OutOfMemory()
	if v.end.asked.Load() {
		return End{OutOfMemory: oom != nil}
	}
	why := errors.Join(oom, v.Machine.Err(), v.Files.Err())
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

// explained is an error of a guest call with the machine's end.
type explained struct{ err, end error }

func (e *explained) Error() string   { return fmt.Sprintf("%v: %v", e.err, e.end) }
func (e *explained) Unwrap() []error { return []error{e.err, e.end} }

// Explain adds the reason of the machine's end, if it has ended, to an error of a guest call. An
// error that has it already stays as it is.
func (v *VM) Explain(err error) error {
	if _, done := errors.AsType[*explained](err); err == nil || done {
		return err
	}
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
// on the channel may be earlier than who waits for the process.
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
