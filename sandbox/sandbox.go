// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/containerd/log"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"

	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/clone"
	"cloister/sandbox/config"
	"cloister/sandbox/confine"
	"cloister/sandbox/containers"
	"cloister/sandbox/content"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/hypervisor"
	"cloister/sandbox/network"
	"cloister/sandbox/plan"
	"cloister/sandbox/statedir"
	"cloister/sandbox/tally"
	"cloister/sandbox/template"
	"cloister/sandbox/undo"
)

// tracer names the spans' source.
const tracer = "cloister/sandbox"

// Config is what the host's administrator sets.
type Config = config.Config

// End says how a machine ended.
type End = hypervisor.End

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

// Container is a container to be put into the sandbox.
type Container = content.Container

// Sandbox is a running machine with its helpers and its guest connection.
type Sandbox struct {
	config  Config
	request Request
	memory  int64 // what all containers together may use, in bytes

	journal    *statedir.Journal
	confine    confine.Driver
	netns      *network.Namespace
	links      *network.Session // what the guest has of netns
	share      *content.Share
	vm         *hypervisor.VM
	guest      *guestapi.Client
	containers *containers.Set // from the guest's hello on
	cold       bool            // not from a template
	wanted     bool            // a template is to be built for the next one like it
	undo       undo.Stack
	notes      *statedir.Notes
}

// step is one part of a start that has effects; a crash after any of them is tested.
type step struct {
	name string
	run  func(context.Context) error
}

func (s *Sandbox) steps(p *starting) []step {
	with := func(run func(context.Context, *starting) error) func(context.Context) error {
		return func(ctx context.Context) error { return run(ctx, p) }
	}
	fits := func(run func(context.Context, *starting) error) func(context.Context) error {
		return func(ctx context.Context) error { return p.source.Blame(ctx, run(ctx, p)) }
	}
	return []step{
		{"plan", with(s.plan)},
		{"promise", s.promise},
		{"label", with(s.reserve)},
		{"content", func(ctx context.Context) error { return p.first.Admit(ctx, s.confine) }},
		{"prepare", with(s.prepare)},
		{"memory", fits(s.recall)},
		{"files", with(s.serveFiles)},
		{"qemu", fits(s.launch)},
		{"load", fits(func(ctx context.Context, p *starting) error { return p.source.Load(ctx, s.vm) })},
		{"verify", s.verify},
		{"kernel", fits(s.greet)},
		{"agent", fits(s.configure)},
	}
}

// draws bounds how often a level is drawn anew because another engine came to use it between the
// draw and the guest's first instruction.
const draws = 3

// Start makes the machine, its label and its guest connection. The guest has run no instruction
// when a label turns out wrong. On an error nothing is left.
func Start(ctx context.Context, cfg Config, req Request) (s *Sandbox, err error) {
	var failed *clone.StartError
	for range draws {
		s, err = start(ctx, cfg, req, failed != nil)
		if errors.As(err, &failed) {
			log.G(ctx).WithField("sandbox", req.ID).WithError(failed).Warn("the sandbox starts cold")
			continue
		}
		if !errors.Is(err, confine.ErrClash) {
			break
		}
	}
	// Where the cold start fails as well, the template is not to blame: a workload's wish may be.
	if err == nil && failed != nil {
		s.notes.Set("cold_because", failed.Error())
		if err := failed.Note(cfg.Templates()); err != nil {
			log.G(ctx).WithField("sandbox", req.ID).WithError(err).Warn("record the template's failure")
		}
	}
	return s, err
}

// newSandbox is one of which nothing is made yet.
func newSandbox(cfg Config, req Request) *Sandbox {
	return &Sandbox{config: cfg.WithDefaults(), request: req, undo: undo.Stack{Trace: cfg.Trace}, notes: statedir.NewNotes()}
}

func start(ctx context.Context, cfg Config, req Request, cold bool) (_ *Sandbox, err error) {
	s := newSandbox(cfg, req)
	s.cold = cold
	p := &starting{}
	defer p.close()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.undo.Run(ctx))
			p.first.Close()
		}
	}()
	for _, step := range s.steps(p) {
		done := s.Phase(ctx, step.name)
		err := step.run(ctx)
		done()
		if err != nil {
			s.count(ctx, func(c *tally.Counts) { c.Failed(step.name, err) })
			return nil, fmt.Errorf("sandbox %s: %s: %w", req.ID, step.name, err)
		}
	}
	phases := s.notes.Seen()
	s.count(ctx, func(c *tally.Counts) {
		c.Started(class)
		for _, p := range phases {
			c.Took(p.Name, p.DurationMs)
		}
	})
	go s.watch()
	if s.wanted {
		cfg.WantTemplate(template.Wanted(s.memory, p.Size.CPUs, string(p.Machine.Type)))
	}
	return s, nil
}

// class is that of the sandboxes that this package starts.
const class = "vm"

// count changes the counts of the host. No sandbox fails for them.
func (s *Sandbox) count(ctx context.Context, change func(*tally.Counts)) {
	if err := tally.Add(s.config.State, change); err != nil {
		log.G(ctx).WithField("sandbox", s.request.ID).WithError(err).Warn("this start is missing in the metrics")
	}
}

// Phase begins a phase of a start or a stop; the function it returns ends it. It is a span as well,
// below ctx's.
func (s *Sandbox) Phase(ctx context.Context, name string) func() {
	begin := time.Now()
	_, span := otel.Tracer(tracer).Start(ctx, name, trace.WithTimestamp(begin), trace.WithAttributes(
		attribute.String("cloister.sandbox", s.request.ID), attribute.String("cloister.namespace", s.request.Namespace),
	))
	return func() {
		span.End()
		s.notes.Phase(name, begin)
		s.Reached(name)
	}
}

// Reached says that a part of a call with an effect is over; for crash tests.
func (s *Sandbox) Reached(part string) { s.undo.Trace.Tell(part, "reached") }

// Pid is QEMU's pid on the host, which is the pid of every task that leaves the shim.
func (s *Sandbox) Pid() int { return s.vm.Machine.Pid() }

// ID is the sandbox's name: its first container's.
func (s *Sandbox) ID() string { return s.request.ID }

// Guest is the connection to the agent. It ends with the machine and stays the Sandbox's to close.
func (s *Sandbox) Guest() *guestapi.Client { return s.guest }

// DiskIO is what the sandbox's processes have read from and written to disks of the host.
func (s *Sandbox) DiskIO() ([]cgroup.DiskIO, error) { return s.vm.DiskIO() }

// Halt ends the machine without a word to the guest, if that loses nothing, and tells whether it
// did. What a process wrote to shared files is with the file server once the process has ended,
// mapped files included (fuse_vma_close of the kernel's fs/fuse/file.c); disks have to be unmounted
// first.
func (s *Sandbox) Halt(ctx context.Context) (bool, error) {
	if s.containers.HasDisks() {
		return false, nil
	}
	defer s.Phase(ctx, "halt")()
	err := s.vm.Halt()
	return err == nil, err
}

// Destroy ends the machine and takes back all that the sandbox did, also when ctx has ended.
func (s *Sandbox) Destroy(ctx context.Context) error {
	done := s.Phase(ctx, "destroy")
	s.vm.ExpectEnd()
	err := s.undo.Run(ctx)
	done()
	log.G(ctx).WithField("sandbox", s.request.ID).Infof("stopped: %s", statedir.Line(s.notes.Take()))
	return err
}

// do makes an effect on the host. The record has it before it happens, for whoever cleans up.
func (s *Sandbox) do(e statedir.Effect, act func(*statedir.Effect) error, undo func(context.Context) error) error {
	return s.undo.Do(s.journal, e, act, undo)
}

// Note writes down what people ask of a running sandbox: what it runs on and how long each phase of
// its start took.
func (s *Sandbox) Note(ctx context.Context) {
	phases := s.notes.Take()
	if err := s.journal.Note(s.notes.All(), phases); err != nil {
		log.G(ctx).WithError(err).Warn("record the phases of the sandbox's start")
	}
	log.G(ctx).WithField("sandbox", s.request.ID).Infof("started: %s", statedir.Line(phases))
}

// ContainerMemory is what all containers together may use, in bytes.
func (s *Sandbox) ContainerMemory() int64 { return s.memory }

// Facts are what people ask of a sandbox: kind of machine, kernel, image, size.
func (s *Sandbox) Facts() map[string]string { return s.notes.All() }

// Wait blocks until the machine has ended and says why.
func (s *Sandbox) Wait() End { return s.vm.Wait() }

// Explain adds the reason of the machine's end, if it has ended, to an error of a guest call.
func (s *Sandbox) Explain(err error) error { return s.vm.Explain(err) }

// watch waits for the machine's end and writes the reason down, for whoever looks before the shim
// is told to delete the sandbox.
func (s *Sandbox) watch() {
	reason := ""
	if end := s.vm.Watch(); end.Reason != nil {
		reason = end.Reason.Error()
	}
	if err := s.journal.End(reason); err != nil {
		log.L.WithField("sandbox", s.request.ID).WithError(err).Warn("record the machine's end")
	}
}

// Sync gives the guest the network and the copied files that the engine has prepared for a
// container that is about to start.
func (s *Sandbox) Sync(ctx context.Context, id string) error {
	return errors.Join(s.links.Sync(log.WithLogger(ctx, log.G(ctx).WithField("sandbox", s.request.ID))), s.containers.Refresh(ctx, id))
}

// Add makes a container's files visible in the guest and returns the guest's bundle. On an error
// nothing of the container is left.
func (s *Sandbox) Add(ctx context.Context, c Container) (bundle string, err error) {
	return s.containers.Add(ctx, c)
}

// Remove takes a container's files out of the guest. The task must be gone. It may be repeated.
func (s *Sandbox) Remove(ctx context.Context, id string) error { return s.containers.Remove(ctx, id) }
