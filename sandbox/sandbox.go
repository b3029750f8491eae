// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/log"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"cloister/labels/lsm"
	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/content"
	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sandbox/jail"
	"cloister/sandbox/network"
	"cloister/sandbox/plan"
	"cloister/sandbox/statedir"
	"cloister/sandbox/undo"
	"cloister/vmm/qemu"
	"cloister/vmm/virtiofsd"
)

// tracer names the spans' source.
const tracer = "cloister/sandbox"

// Mount is one mount as an engine hands it over.
type Mount = plan.Mount

// Request asks for a sandbox.
type Request struct {
	ID        string
	Namespace string // containerd's
	Bundle    string // of the first container
	Workload  *oci.Workload
	Rootfs    []Mount // of the first container, as the engine sent them
}

// Sandbox is a running machine with its helpers and its guest connection.
type Sandbox struct {
	config  Config
	request Request
	size    oci.Size

	dir      statedir.Dir
	journal  *statedir.Journal
	cgroup   *cgroup.Group
	programs lsm.Programs
	confine  confine.Driver
	identity confine.Identity // what confine has reserved
	owner    jail.Owner       // whom QEMU belongs to; its id follows from the identity
	netns    *network.Namespace
	files    *virtiofsd.Process
	machine  *qemu.Process
	root     *jail.Root // of the machine's process; nil on a host that cannot
	guest    *guestapi.Client
	undo     undo.Stack
	done     chan struct{} // closed when the machine has ended
	end      ending

	pod       sync.Mutex
	pidShared bool // guarded by pod
	named     bool // the guest reaches the engine's name server; guarded by pod

	share   *content.Share
	volumes *content.Volumes
	changes *content.Changes // of the engine's files; nil when the host gives no watch

	showing sync.Mutex // orders what the machine's process shows as its root

	removing sync.RWMutex // held for reading while a container is taken out

	network sync.Mutex       // orders what the guest is told of its network, and guards:
	told    *guestv1.Network // the last of it
	settled bool             // a container has been started
	missing []string         // what the log has said that the guest goes without

	mu         sync.Mutex
	begun      time.Time
	phases     []statedir.Phase // since they were last written down
	facts      map[string]string
	containers map[string]*resident
	first      *arrival // the container that the sandbox is started for, until it is added
	luns       map[int]bool
}

// step is one part of a start that has effects; a crash after any of them is tested.
type step struct {
	name string
	run  func(context.Context) error
}

func (s *Sandbox) steps(p *planned) []step {
	return []step{
		{"plan", func(ctx context.Context) error { return s.plan(ctx, p) }},
		{"promise", func(ctx context.Context) error { return s.promise(ctx) }},
		{"label", func(ctx context.Context) error { return s.reserve(ctx, p) }},
		{"content", func(ctx context.Context) error { return s.admit(ctx, s.first) }},
		{"prepare", func(context.Context) error { return s.prepare(p) }},
		{"files", func(ctx context.Context) error { return s.serveFiles(ctx, p) }},
		{"qemu", func(ctx context.Context) error { return s.launch(ctx, p) }},
		{"verify", s.verify},
		{"kernel", s.greet},
		{"agent", s.configure},
	}
}

// draws bounds how often a level is drawn anew because another engine came to
// use it between the draw and the guest's first instruction.
const draws = 3

// Start makes the machine, its label and its guest connection. The guest has run
// no instruction when a label turns out wrong. On an error nothing is left.
func Start(ctx context.Context, cfg Config, req Request) (s *Sandbox, err error) {
	for range draws {
		if s, err = start(ctx, cfg, req); !errors.Is(err, confine.ErrClash) {
			break
		}
	}
	return s, err
}

func start(ctx context.Context, cfg Config, req Request) (_ *Sandbox, err error) {
	s := &Sandbox{
		config: cfg.withDefaults(), request: req, done: make(chan struct{}), begun: time.Now(), undo: undo.Stack{Trace: cfg.Trace},
		containers: map[string]*resident{}, luns: map[int]bool{},
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo.Run(ctx))
			s.dropFirst()
		}
	}()
	p := &planned{}
	defer p.close()
	for _, step := range s.steps(p) {
		done := s.Phase(ctx, step.name)
		err := step.run(ctx)
		done()
		if err != nil {
			return nil, fmt.Errorf("sandbox %s: %s: %w", req.ID, step.name, err)
		}
	}
	go s.watch()
	return s, nil
}

// maxPhases bounds the phases that wait to be written down. The oldest ones go.
const maxPhases = 64

// Phase begins a phase of a start or a stop; the function it returns ends it. It is a span as well, below ctx's.
func (s *Sandbox) Phase(ctx context.Context, name string) func() {
	begin := time.Now()
	_, span := otel.Tracer(tracer).Start(ctx, name, trace.WithTimestamp(begin), trace.WithAttributes(
		attribute.String("cloister.sandbox", s.request.ID), attribute.String("cloister.namespace", s.request.Namespace),
	))
	return func() {
		span.End()
		s.mu.Lock()
		defer s.mu.Unlock()
		s.phases = append(slices.Delete(s.phases, 0, max(0, len(s.phases)+1-maxPhases)), statedir.Phase{
			Name: name, OffsetMs: begin.Sub(s.begun).Milliseconds(), DurationMs: time.Since(begin).Milliseconds(),
		})
		s.Reached(name)
	}
}

// Reached says that a part of a call with an effect is over; for crash tests.
func (s *Sandbox) Reached(part string) { s.undo.Trace.Tell(part, "reached") }

// Pid is QEMU's pid on the host.
func (s *Sandbox) Pid() int { return s.machine.Pid() }

// ID is the sandbox's name: its first container's.
func (s *Sandbox) ID() string { return s.request.ID }

// Guest is the connection to the agent.
func (s *Sandbox) Guest() *guestapi.Client { return s.guest }

// Halt ends the machine without a word to the guest, if that loses nothing, and tells whether it did. What a process
// wrote to shared files is with the file server once the process has ended, mapped files included (fuse_vma_close of
// the kernel's fs/fuse/file.c); disks have to be unmounted first.
func (s *Sandbox) Halt(ctx context.Context) (bool, error) {
	s.mu.Lock()
	disks := len(s.luns) > 0
	s.mu.Unlock()
	if disks {
		return false, nil
	}
	defer s.Phase(ctx, "halt")()
	s.end.asked.Store(true)
	if err := s.machine.Kill(); err != nil {
		return false, err
	}
	<-s.done
	return true, nil
}

// Destroy ends the machine and takes back everything the sandbox did.
func (s *Sandbox) Destroy(ctx context.Context) error {
	done := s.Phase(ctx, "destroy")
	s.end.asked.Store(true)
	err := s.undo.Run(ctx)
	done()
	s.mu.Lock()
	defer s.mu.Unlock()
	log.G(ctx).WithField("sandbox", s.request.ID).Infof("stopped: %s", line(s.phases))
	return err
}

// do makes an effect on the host that the sandbox's record has.
func (s *Sandbox) do(e statedir.Effect, act func(*statedir.Effect) error, undo func(context.Context) error) error {
	return s.undo.Do(s.journal, e, act, undo)
}

// Note writes down what people ask of a running sandbox: what it runs on and how
// long each phase of its start took.
func (s *Sandbox) Note(ctx context.Context) {
	s.mu.Lock()
	facts, phases := s.facts, s.phases
	s.phases = nil
	s.mu.Unlock()
	if err := s.journal.Note(facts, phases); err != nil {
		log.G(ctx).WithError(err).Warn("note the sandbox's phases")
	}
	log.G(ctx).WithField("sandbox", s.request.ID).Infof("started: %s", line(phases))
}

// line is for a log.
func line(phases []statedir.Phase) string {
	words := make([]string, 0, len(phases))
	for _, p := range phases {
		words = append(words, fmt.Sprintf("%s=%dms", p.Name, p.DurationMs))
	}
	return strings.Join(words, " ")
}

// ContainerMemory is what all containers together may use, in bytes.
func (s *Sandbox) ContainerMemory() int64 { return s.size.ContainerMemory }
