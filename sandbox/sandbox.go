// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"cloister/oci"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/network"
	"cloister/sandbox/plan"
	"cloister/vmm/qemu"
	"cloister/vmm/virtiofsd"
)

// Mount is one mount as an engine hands it over.
type Mount = plan.Mount

// Request asks for a sandbox.
type Request struct {
	ID        string
	Namespace string // containerd's
	Bundle    string // of the first container
	Workload  *oci.Workload
}

// Sandbox is a running machine with its helpers and its guest connection.
type Sandbox struct {
	config  Config
	request Request
	size    oci.Size

	dir     string
	netns   *network.Namespace
	files   *virtiofsd.Process
	machine *qemu.Process
	guest   *guestapi.Client
	undo    undo
	done    chan struct{} // closed when the machine has ended

	network sync.Mutex // orders what the guest is told of its network

	mu         sync.Mutex
	phases     []Phase
	containers map[string]*resident
	luns       map[int]bool
}

// Phase is one part of a start and how long it took.
type Phase struct {
	Name     string
	Duration time.Duration
}

// step is one part of a start that has effects; a crash after any of them is tested.
type step struct {
	name string
	run  func(context.Context) error
}

func (s *Sandbox) steps(p *planned) []step {
	return []step{
		{"plan", func(context.Context) error { return s.plan(p) }},
		{"prepare", func(context.Context) error { return s.prepare(p) }},
		{"files", func(ctx context.Context) error { return s.serveFiles(ctx, p) }},
		{"qemu", func(ctx context.Context) error { return s.launch(ctx, p) }},
		{"verify", s.verify},
		{"kernel", s.greet},
		{"agent", s.configure},
	}
}

// Start makes the machine, its label and its guest connection. The guest has run
// no instruction when a label turns out wrong. On an error nothing is left.
func Start(ctx context.Context, cfg Config, req Request) (_ *Sandbox, err error) {
	s := &Sandbox{
		config: cfg.withDefaults(), request: req, done: make(chan struct{}),
		containers: map[string]*resident{}, luns: map[int]bool{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo.run(ctx))
		}
	}()
	p := &planned{}
	defer p.close()
	for _, step := range s.steps(p) {
		done := s.Phase(step.name)
		err := step.run(ctx)
		done()
		if err != nil {
			return nil, fmt.Errorf("sandbox %s: %s: %w", req.ID, step.name, err)
		}
	}
	go s.watch()
	return s, nil
}

// Phase begins a phase of the start; the function it returns ends it.
func (s *Sandbox) Phase(name string) func() {
	begin := time.Now()
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.phases = append(s.phases, Phase{Name: name, Duration: time.Since(begin)})
	}
}

// watch closes done when either end of the sandbox is gone: a machine without an
// agent is of no use, nor one without its files.
func (s *Sandbox) watch() {
	select {
	case <-s.machine.Done():
	case <-s.guest.Done():
	case <-s.files.Done():
	}
	_ = s.machine.Kill()
	close(s.done)
}

// Pid is QEMU's pid on the host.
func (s *Sandbox) Pid() int { return s.machine.Pid() }

// Guest is the connection to the agent.
func (s *Sandbox) Guest() *guestapi.Client { return s.guest }

// Done is closed when the machine has ended, whoever ended it.
func (s *Sandbox) Done() <-chan struct{} { return s.done }

// Explain adds what is known of the machine's end to an error of a guest call.
func (s *Sandbox) Explain(err error) error {
	if err == nil {
		return nil
	}
	select {
	case <-s.machine.Done():
		return errors.Join(err, s.machine.Err(), s.guest.Err(), s.files.Err())
	default:
		return err
	}
}

// Destroy ends the machine and takes back everything the sandbox did.
func (s *Sandbox) Destroy(ctx context.Context) error { return s.undo.run(ctx) }

// ContainerMemory is what all containers together may use, in bytes.
func (s *Sandbox) ContainerMemory() int64 { return s.size.ContainerMemory }
