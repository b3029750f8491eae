// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"cloister/oci"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/plan"
	"cloister/sandbox/template"
)

// TemplateNamespace is the namespace of the sandboxes that become templates.
const TemplateNamespace = "cloister-templates"

// TemplateSize says which sandboxes a template is for. Zero is the configured default.
type TemplateSize struct {
	LimitMiB int // memory limit of the containers
	CPUs     int
}

// BuildTemplate boots a guest, saves it and keeps it for sandboxes of that size. The guest is a
// sandbox of its own while it runs: identity, jail, cgroup and network namespace are no other's,
// and its namespace has no link but taps. Nothing but the template is left, with an error nothing
// at all.
func BuildTemplate(ctx context.Context, cfg Config, size TemplateSize) (_ template.Manifest, err error) {
	b := &builder{Sandbox: newSandbox(cfg, Request{
		// Builds of several state folders share the host's cgroups: no two have one name.
		ID: "build-" + strings.ToLower(rand.Text()[:12]), Namespace: TemplateNamespace,
		Workload: &oci.Workload{Resources: oci.Resources{MemoryLimit: int64(size.LimitMiB) << 20}, Settings: oci.Settings{CPUs: size.CPUs}},
	})}
	defer func() { err = errors.Join(err, b.undo.Run(ctx)) }()
	defer b.planned.close()
	for _, step := range b.steps() {
		if err := step.run(ctx); err != nil {
			return b.made, fmt.Errorf("build template: %s: %w", step.name, err)
		}
		b.Reached(step.name)
	}
	return b.made, nil
}

// builder is a sandbox that becomes a template.
type builder struct {
	*Sandbox
	planned starting
	key     template.Key
	memory  *os.File
	draft   *template.Draft
	agent   string // version
	made    template.Manifest
}

func (b *builder) steps() []step {
	p := &b.planned
	return []step{
		{"plan", b.plan},
		{"promise", b.promise},
		{"label", func(ctx context.Context) error { return b.reserve(ctx, p) }},
		{"prepare", func(ctx context.Context) error { return b.prepare(ctx, p) }},
		{"draft", b.begin},
		{"qemu", func(ctx context.Context) error { return b.launch(ctx, p) }},
		{"verify", b.verify},
		{"agent", b.await},
		{"save", b.save},
		{"keep", b.keep},
	}
}

// plan plans the machine of a sandbox of that size, and the one that is saved for it.
func (b *builder) plan(ctx context.Context) (err error) {
	b.cold = true
	if err := b.planMachine(ctx, &b.planned); err != nil {
		return err
	}
	if reason := plan.NoTemplate(b.planned.Machine, guestapi.UserNamespace{}); reason != "" {
		return fmt.Errorf("no template for such a machine: %s", reason)
	}
	if b.key, err = b.templateKey(b.config.Templates(), &b.planned); err != nil {
		return err
	}
	b.planned.Machine = plan.ForTemplate(b.planned.Machine)
	return b.planned.Machine.Validate()
}

// begin makes the draft and the memory that will be kept.
func (b *builder) begin(context.Context) (err error) {
	if b.draft, err = b.config.Templates().Begin(); err != nil {
		return err
	}
	b.undo.Push("draft", func(context.Context) error { return b.draft.Close() })
	if b.memory, err = b.planned.newMemory(); err != nil {
		return err
	}
	b.undo.Push("memory", func(context.Context) error { return b.memory.Close() })
	b.planned.memory = b.memory
	return nil
}

// await waits until the agent waits for the host.
func (b *builder) await(ctx context.Context) error {
	b.undo.Push("guest connection", func(context.Context) error { return b.vm.Machine.Agent().Close() })
	ctx, cancel := b.vm.Patience(ctx, "the guest's agent said nothing")
	defer cancel()
	hello, err := guestapi.AwaitHello(ctx, b.vm.Machine.Agent())
	if err != nil {
		return b.silent(err)
	}
	b.agent = hello.AgentVersion
	select { // the guest gives what it does not use to its balloon, a part every two seconds
	case <-time.After(settle):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}

// settle is how long a guest that waits is left running: what the kernel puts off until it is idle
// is not put off in every clone.
const settle = 3 * time.Second

func (b *builder) save(ctx context.Context) error {
	if err := b.vm.Machine.Save(ctx, b.draft.State); err != nil {
		return b.silent(err)
	}
	return nil
}

func (b *builder) keep(context.Context) (err error) {
	m := template.Manifest{Key: b.key, QEMUVersion: b.vm.Machine.Version(), Agent: b.agent}
	for _, nic := range b.planned.Machine.NICs {
		m.MACs = append(m.MACs, nic.MAC)
	}
	b.made, err = b.draft.Commit(m, b.memory)
	return err
}
