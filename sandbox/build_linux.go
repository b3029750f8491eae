// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"cloister/oci"
	"cloister/sandbox/clone"
	"cloister/sandbox/template"
)

// TemplateNamespace is the namespace of the sandboxes that become templates.
const TemplateNamespace = "cloister-templates"

// TemplateRequest asks for a template.
type TemplateRequest struct {
	template.Size
	Shares  uint64 // of the CPU, for the guest's cgroup; zero: the kernel's default
	Missing bool   // build none, with an error of template.Store.Lacks, where none is wanted
}

// BuildTemplate boots a guest, saves it and keeps it for the sandboxes that req names. The guest is
// a sandbox of its own while it runs: identity, jail, cgroup and network namespace are no other's,
// and its namespace has no link but taps. Nothing but the template is left, with an error nothing
// at all. With an error of the build itself comes the template's ID.
func BuildTemplate(ctx context.Context, cfg Config, req TemplateRequest) (made template.Manifest, err error) {
	s, p := newBuilder(cfg, req), &starting{}
	err = s.once(ctx, "build template", p, s.buildSteps(p, req, &made))
	return made, err
}

// TryImage boots the configured guest image once, as BuildTemplate does, and waits for the hello of
// its agent. Nothing is left.
func TryImage(ctx context.Context, cfg Config) error {
	s, p := newBuilder(cfg, TemplateRequest{}), &starting{}
	return s.once(ctx, "boot the guest image", p, []step{
		{"plan", func(ctx context.Context) error { return s.planMachine(ctx, p) }},
		{"promise", s.promise},
		{"label", func(ctx context.Context) error { return s.reserve(ctx, p) }},
		{"prepare", func(ctx context.Context) error { return s.prepare(ctx, p) }},
		{"files", func(ctx context.Context) error { return s.serveFiles(ctx, p) }},
		{"qemu", func(ctx context.Context) error { return s.launch(ctx, p) }},
		{"verify", s.verify},
		{"agent", func(ctx context.Context) error { return clone.Hello(ctx, s.vm) }},
	})
}

func newBuilder(cfg Config, req TemplateRequest) *Sandbox {
	// Builds of several state folders share the host's cgroups: no two have one name.
	id := "build-" + strings.ToLower(rand.Text()[:12])
	return newSandbox(cfg, Request{
		ID: id, Namespace: TemplateNamespace,
		Workload: &oci.Workload{
			CgroupsPath: "/" + id, // beside the groups of all engines, or its weight would count in its own parent alone
			Resources:   oci.Resources{MemoryLimit: int64(req.LimitMiB) << 20, CPUShares: req.Shares},
			Settings:    oci.Settings{CPUs: req.CPUs, Machine: req.Machine},
		},
	})
}

// once runs steps, and takes back what they did.
func (s *Sandbox) once(ctx context.Context, what string, p *starting, steps []step) (err error) {
	defer func() { err = errors.Join(err, s.undo.Run(ctx)) }()
	defer p.close()
	for _, step := range steps {
		if err := step.run(ctx); err != nil {
			return fmt.Errorf("%s: %s: %w", what, step.name, err)
		}
		s.Reached(step.name)
	}
	return nil
}

func (s *Sandbox) buildSteps(p *starting, req TemplateRequest, made *template.Manifest) []step {
	var b *clone.Build
	return []step{
		// No start with the name of a dead builder will take back what it left.
		{"sweep", func(ctx context.Context) error { return s.config.Recovery().CollectNamespace(ctx, TemplateNamespace) }},
		{"plan", func(ctx context.Context) (err error) {
			if err := s.planMachine(ctx, p); err != nil {
				return err
			}
			if b, p.Machine, err = s.templates(p).NewBuild(p.Machine, req.Missing); err == nil {
				made.ID = b.ID()
			}
			return err
		}},
		{"promise", s.promise},
		{"label", func(ctx context.Context) error { return s.reserve(ctx, p) }},
		{"prepare", func(ctx context.Context) error { return s.prepare(ctx, p) }},
		{"draft", func(context.Context) (err error) {
			s.undo.Push("draft", func(context.Context) error { return b.Close() })
			p.memory, err = b.Begin(p.owner)
			return err
		}},
		{"qemu", func(ctx context.Context) error { return s.launch(ctx, p) }},
		{"verify", s.verify},
		{"agent", func(ctx context.Context) error { return b.Await(ctx, s.vm) }},
		{"save", func(ctx context.Context) error { return b.Save(ctx, s.vm) }},
		{"end", func(ctx context.Context) error { return s.vm.Stop(ctx) }}, // nobody writes to what is kept
		{"keep", func(context.Context) (err error) { *made, err = b.Keep(); return err }},
	}
}
