// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/labels/policy"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/plan"
	"cloister/sandbox/template"
	"cloister/vmm/guestimage"
	"cloister/vmm/qemu"
)

// check refuses an unknown mode.
func (t Template) check() error {
	switch t.Mode {
	case "", TemplateOff, TemplateAuto:
		return nil
	}
	return fmt.Errorf("template.mode = %q: want auto or off: %w", t.Mode, errdefs.ErrInvalidArgument)
}

// Templates is where the host keeps its templates.
func (c Config) Templates() template.Store {
	return template.NewStore(filepath.Join(c.withDefaults().Root, "templates"))
}

// startFact is the fact that says what a sandbox was started from.
const startFact = "start"

// saved is the template that a sandbox starts from.
type saved struct {
	*template.Template
	memory  *os.File      // the sandbox's own
	filled  chan struct{} // closed once fillErr is set
	fillErr error
}

// close waits for the copy: it ends by itself.
func (t *saved) close() {
	if t.filled != nil {
		<-t.filled
	}
	if t.memory != nil {
		_ = t.memory.Close() // QEMU has it
	}
	_ = t.Template.Close() // read only
}

// templateError is a start from a template that failed before its guest did anything for the
// workload.
type templateError struct {
	id  string
	err error
}

func (e *templateError) Error() string { return fmt.Sprintf("start from template %s: %v", e.id, e.err) }
func (e *templateError) Unwrap() error { return e.err }

// fits runs a step whose failure means, where there is a template, that the template does not fit.
func (p *starting) fits(run func(context.Context) error) func(context.Context) error {
	return func(ctx context.Context) error {
		err := run(ctx)
		if err == nil || p.saved == nil || ctx.Err() != nil {
			return err
		}
		return &templateError{p.saved.Manifest.ID, err}
	}
}

// setAside notes that a template has failed, and says so in the log. The sandbox starts cold.
func setAside(ctx context.Context, cfg Config, id string, failed *templateError) {
	logger := log.G(ctx).WithField("sandbox", id)
	if err := cfg.Templates().Fail(failed.id, failed.err.Error()); err != nil {
		logger = logger.WithField("note", err)
	}
	logger.WithError(failed.err).Warnf("template %s failed: the sandbox starts cold", failed.id)
}

// chooseTemplate has the sandbox start from a template if there is one for its machine. None is no
// error: the start is cold then, and the log says why.
func (s *Sandbox) chooseTemplate(ctx context.Context, p *starting) error {
	s.notes.Set(startFact, "cold")
	if err := s.config.Template.check(); err != nil {
		return err
	}
	if s.cold || s.config.Template.Mode != TemplateAuto {
		return nil
	}
	cold := func(reason any) error {
		log.G(ctx).WithField("sandbox", s.request.ID).Infof("the sandbox starts cold: %v", reason)
		return nil
	}
	if s.request.Workload.Settings.ColdStart {
		return cold("its annotation asks for that")
	}
	if reason := plan.NoTemplate(p.Machine, plan.Users(s.request.Workload.Namespaces.IDs)); reason != "" {
		return cold(reason)
	}
	store := s.config.Templates()
	if store.Empty() {
		return cold(template.ErrNone)
	}
	key, err := s.templateKey(store, p)
	if err != nil {
		return cold(err)
	}
	t, err := store.Open(key)
	if err != nil {
		if errors.Is(err, template.ErrDamaged) {
			err = errors.Join(err, store.Fail(key.ID(), err.Error()))
		}
		return cold(err)
	}
	p.saved = &saved{Template: t}
	if p.Machine, err = plan.FromTemplate(p.Machine, t.Manifest.MACs); err != nil {
		p.saved.close()
		p.saved = nil
		return err
	}
	s.notes.Set(startFact, "template "+t.Manifest.ID)
	return nil
}

// templateKey says which templates a machine may start from.
func (s *Sandbox) templateKey(store template.Store, p *starting) (template.Key, error) {
	image, err := guestimage.Open(filepath.Dir(p.Machine.Kernel)) // the plan has verified it
	if err != nil {
		return template.Key{}, err
	}
	m := plan.ForTemplate(p.Machine)
	m.Name = "template"
	m.NICs = plan.NICs(make([][4]byte, len(m.NICs)))
	args, err := qemu.Args(m, qemu.FDs{Taps: make([]int, len(m.NICs))})
	if err != nil {
		return template.Key{}, err
	}
	binary, err := os.Open(p.programs.QEMU)
	if err != nil {
		return template.Key{}, err
	}
	defer binary.Close() // read only
	sum, err := store.Digest(binary)
	if err != nil {
		return template.Key{}, err
	}
	cpu, err := template.HostCPU()
	if err != nil {
		return template.Key{}, err
	}
	var host unix.Utsname
	if err := unix.Uname(&host); err != nil {
		return template.Key{}, err
	}
	mac := cmp.Or(s.config.Labels.MAC, "selinux")
	if mac != "none" {
		mac += " " + policy.Digest()
	}
	return template.Key{
		Image: image.Manifest.Inputs, Kernel: image.Manifest.Kernel.SHA256, Initrd: image.Manifest.Initrd.SHA256, Protocol: guestapi.Protocol,
		QEMU: sum, Machine: string(m.Type), Accel: string(m.Accel), CPUs: m.CPUs, MemoryMiB: m.MemoryMiB,
		Cmdline: m.Cmdline, Arguments: args, HostCPU: cpu, HostKernel: unix.ByteSliceToString(host.Release[:]), Policy: mac,
	}, nil
}

// newMemory makes the file of the machine's memory, which is its QEMU's alone.
func (p *starting) newMemory() (*os.File, error) {
	f, err := template.NewMemory(p.Machine.MemoryMiB)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(0o600), f.Chown(int(p.owner.ID), int(p.owner.ID))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// recall begins to copy the template's memory into the sandbox's own, while the next steps go on. A
// cold start has nothing to copy.
func (s *Sandbox) recall(_ context.Context, p *starting) (err error) {
	if p.saved == nil {
		return nil
	}
	if p.saved.memory, err = p.newMemory(); err != nil {
		return err
	}
	p.memory = p.saved.memory
	p.saved.filled = make(chan struct{})
	go p.saved.fill()
	return nil
}

func (t *saved) fill() {
	defer close(t.filled)
	t.fillErr = t.Fill(t.memory)
}

// load gives QEMU the state of the devices, once the memory is there. No instruction of the guest
// runs.
func (s *Sandbox) load(ctx context.Context, p *starting) error {
	if p.saved == nil {
		return nil
	}
	<-p.saved.filled
	if p.saved.fillErr != nil {
		return p.saved.fillErr
	}
	if have, want := s.vm.Machine.Version(), p.saved.Manifest.QEMUVersion; have != want {
		return fmt.Errorf("QEMU is %s, the template was made by %s", have, want)
	}
	return s.vm.Machine.Load(ctx, p.saved.State)
}

// wake has the guest of a template become a guest of its own, before its agent says hello.
func (s *Sandbox) wake(ctx context.Context, p *starting) error {
	if p.saved == nil {
		return nil
	}
	var seed [guestapi.WakeSeedBytes]byte
	if _, err := rand.Read(seed[:]); err != nil {
		return err
	}
	return guestapi.SendWake(ctx, s.vm.Machine.Agent(), seed)
}
