// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/runtime/stdio"
)

// Ref names a process: a container's first one when Exec is empty.
type Ref struct {
	Container string
	Exec      string
}

// String is the reference as an operator writes it.
func (r Ref) String() string {
	if r.Exec == "" {
		return r.Container
	}
	return r.Container + " exec " + r.Exec
}

// Exited is how and when a process ended, by the host's clock. Status is 128 and the signal for one
// that was killed.
type Exited struct {
	Status uint32
	At     time.Time
}

// process is one process of a container as clients see it. The guest decides when it ends; this
// value decides when that is told. Every change of state goes through next, under mu, and its event
// is published with mu held. So events of a process are in the order of its states, whichever calls
// meet.
type process struct {
	ref    Ref
	stdio  stdio.Config
	spec   *anypb.Any        // of an exec: what the guest is to run
	done   chan struct{}     // closed when state is Stopped
	onExit func(Ref, Exited) // called once, under mu, before done is closed

	mu       sync.Mutex
	state    State
	starting chan struct{} // while the guest was told to start it and has not answered; closed then
	deleting chan struct{} // while a Delete is under way; closed then
	pending  *Exited       // an exit that came before the start's answer
	settling bool          // the guest has reported its exit
	failed   bool          // an exec whose start failed: it never ran
	exit     Exited
	io       *stdio.IO // nil until its streams are open
}

func newProcess(ref Ref, cfg stdio.Config, onExit func(Ref, Exited)) *process {
	return &process{ref: ref, stdio: cfg, done: make(chan struct{}), onExit: onExit}
}

// start runs call, which starts the process in the guest, and then announces it. An exit that
// overtakes the answer is held until the start is announced: clients take an exit of what never
// started for an error. call runs without mu, since it may take as long as the guest does; starting
// keeps others out.
func (p *process) start(call func() error, announce func()) error {
	p.mu.Lock()
	if _, err := next(p.state, Start); err != nil || p.starting != nil || p.deleting != nil {
		p.mu.Unlock()
		if err == nil {
			err = fmt.Errorf("a start or a delete is under way: %w", errdefs.ErrFailedPrecondition)
		}
		return fmt.Errorf("%s: %w", p.ref, err)
	}
	p.starting = make(chan struct{})
	p.mu.Unlock()

	err := call()

	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.starting)
	p.starting = nil
	// The machine may have died meanwhile, or a Kill ended a pause container: then the state has
	// moved.
	if err == nil && p.state == Created {
		p.state = Running
		announce()
	}
	switch {
	case p.pending != nil:
		p.finish(*p.pending)
	case err != nil && p.ref.Exec != "":
		// An exec that never ran is over: Delete and Wait must not hang on it. No exit event tells
		// of it, as with runc: its status would replace the one that clients take from the error.
		p.failed = true
		p.stop(Exited{Status: exitNotStarted, At: time.Now()})
	}
	return err
}

// reported records that the guest has reported the process's exit, and says whether this is the
// first report of a process that the guest may have. Only then does the host act on it: a guest
// could report one exit a million times, or that of an exec which it was never given.
func (p *process) reported() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.settling || p.state == Stopped || (p.ref.Exec != "" && p.state == Created && p.starting == nil) {
		return false
	}
	p.settling = true
	return true
}

// exited records that the process ended; later reports of it change nothing. An exec that never ran
// has no exit event, as with runc; a container's first process always has one, which containerd
// waits for.
func (p *process) exited(e Exited) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.starting != nil:
		p.pending = &e
	case p.ref.Exec != "" && p.state == Created:
		p.stop(e)
	default:
		p.finish(e)
	}
}

// finish ends the process and tells clients. It is called with mu held.
func (p *process) finish(e Exited) {
	if _, err := next(p.state, Exit); err == nil {
		p.onExit(p.ref, e)
		p.stop(e)
	}
}

// stop ends the process. It is called with mu held.
func (p *process) stop(e Exited) {
	to, err := next(p.state, Exit)
	if err != nil {
		return
	}
	p.state, p.exit, p.pending = to, e, nil
	close(p.done)
}

// apply moves the process by an event that the guest has already carried out, and announces it
// before anything else can happen to the process.
func (p *process) apply(on Event, announce func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	to, err := next(p.state, on)
	if err != nil {
		return fmt.Errorf("%s: %w", p.ref, err)
	}
	p.state = to
	announce()
	return nil
}

// whileRunning calls do, which must not block, if the process is running; it cannot end meanwhile.
func (p *process) whileRunning(do func() error) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != Running {
		return fmt.Errorf("%s is %s: %w", p.ref, p.state, errdefs.ErrFailedPrecondition)
	}
	return do()
}

// allows says whether the event would be legal now.
func (p *process) allows(on Event) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, err := next(p.state, on); err != nil {
		return fmt.Errorf("%s: %w", p.ref, err)
	}
	return nil
}

// snapshot is the state, and the exit when it is Stopped.
func (p *process) snapshot() (State, Exited) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state, p.exit
}

// hasRun is true from the moment the guest is told to start the process: it may have written
// output, and it will have an exit.
func (p *process) hasRun() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.starting != nil || p.state != Created && !p.failed
}

// beginDelete claims the process for one Delete, which calls endDelete. While a start or another
// Delete is under way it gives a channel to wait on instead, which is closed afterwards. Without
// the claim, two Deletes at once would both take the sandbox away.
func (p *process) beginDelete() (busy <-chan struct{}, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.starting != nil {
		return p.starting, nil
	}
	if p.deleting != nil {
		return p.deleting, nil
	}
	if _, err := next(p.state, Delete); err != nil {
		return nil, fmt.Errorf("%s: %w", p.ref, err)
	}
	p.deleting = make(chan struct{})
	return nil, nil
}

// endDelete gives the claim back and wakes who waits for it.
func (p *process) endDelete() {
	p.mu.Lock()
	defer p.mu.Unlock()
	close(p.deleting)
	p.deleting = nil
}

// settled waits for a pending exec start. Its client may have disconnected, but only the guest's
// answer tells whether the process exists.
func (p *process) settled(ctx context.Context) error {
	p.mu.Lock()
	starting := p.starting
	p.mu.Unlock()
	if starting == nil || p.ref.Exec == "" {
		return nil
	}
	select {
	case <-starting:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: its start is under way: %w", p.ref, ctx.Err())
	}
}

// wait blocks until the process has ended or ctx is done. Any number may wait, and later ones get
// the same answer.
func (p *process) wait(ctx context.Context) (Exited, error) {
	select {
	case <-p.done:
		_, e := p.snapshot()
		return e, nil
	case <-ctx.Done():
		return Exited{}, ctx.Err()
	}
}
