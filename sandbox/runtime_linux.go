// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/containerd/log"

	"cloister/sandbox/guestapi"
)

// lingerLimit is how long QEMU may take to end once its guest has hung up or its file server has
// ended. QEMU's own end says more than either, and a QEMU that is killed hangs up first.
const lingerLimit = 2 * time.Second

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

// Wait blocks until the machine has ended and says why.
func (s *Sandbox) Wait() End {
	<-s.end.done
	return s.end.why
}

// watch closes done when QEMU, the agent's connection or the file server has ended: without any of
// them the machine is of no use.
func (s *Sandbox) watch() {
	select {
	case <-s.vm.Machine.Done():
	case <-s.guest.Done():
		s.linger()
	case <-s.vm.Files.Done():
		s.linger()
	}
	s.end.why = s.reason()
	_ = s.vm.Machine.Kill()
	close(s.end.done)
	s.noteEnd()
}

// noteEnd writes the reason down for whoever looks before the shim is told to delete the sandbox.
func (s *Sandbox) noteEnd() {
	reason := ""
	if s.end.why.Reason != nil {
		reason = s.end.why.Reason.Error()
	}
	if err := s.journal.End(reason); err != nil {
		log.L.WithField("sandbox", s.request.ID).WithError(err).Warn("note the machine's end")
	}
}

func (s *Sandbox) linger() {
	timer := time.NewTimer(lingerLimit)
	defer timer.Stop()
	select {
	case <-s.vm.Machine.Done():
	case <-timer.C:
	}
}

// reason says why the machine is ending or has ended.
func (s *Sandbox) reason() End {
	oom := s.vm.OutOfMemory()
	if s.end.asked.Load() {
		return End{OutOfMemory: oom != nil}
	}
	why := errors.Join(oom, s.vm.Machine.Err(), s.vm.Files.Err())
	if why == nil && s.guest != nil {
		select {
		case <-s.vm.Machine.Done():
			why = errors.New("the guest powered off")
		default:
			why = s.guest.Err()
		}
	}
	return End{Reason: why, OutOfMemory: oom != nil}
}

// connection is what the agent's client may know of the machine.
func (s *Sandbox) connection() guestapi.Machine {
	return guestapi.Machine{
		Starved: s.vm.Starved,
		Explain: s.Explain,
		Look:    s.vm.Look,
	}
}

// explained is an error of a guest call with the machine's end.
type explained struct{ err, end error }

func (e *explained) Error() string   { return fmt.Sprintf("%v: %v", e.err, e.end) }
func (e *explained) Unwrap() []error { return []error{e.err, e.end} }

// Explain adds the reason of the machine's end, if it has ended, to an error of a guest call. An
// error that has it already stays as it is.
func (s *Sandbox) Explain(err error) error {
	if _, done := errors.AsType[*explained](err); err == nil || done {
		return err
	}
	if s.guest != nil && s.guest.Err() != nil {
		s.linger()
	}
	select {
	case <-s.vm.Machine.Done():
	default:
		return err
	}
	if end := s.reason(); end.Reason != nil {
		return &explained{err, end.Reason}
	}
	return err
}

// Sync gives the guest the network and the copied files that the engine has prepared for a
// container that is about to start.
func (s *Sandbox) Sync(ctx context.Context, id string) error {
	return errors.Join(s.links.Sync(log.WithLogger(ctx, log.G(ctx).WithField("sandbox", s.request.ID))), s.containers.Refresh(ctx, id))
}

// Facts are what people ask of a sandbox: kind of machine, kernel, image, size.
func (s *Sandbox) Facts() map[string]string { return s.notes.All() }
