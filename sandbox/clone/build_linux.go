// SPDX-License-Identifier: Apache-2.0

package clone

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"cloister/sandbox/guestapi"
	"cloister/sandbox/hypervisor"
	"cloister/sandbox/jail"
	"cloister/sandbox/plan"
	"cloister/sandbox/template"
	"cloister/vmm"
)

// Build is a template that is being made of a machine. Fields are filled in the order of the
// methods; Close takes what there is.
type Build struct {
	store    template.Store
	machine  vmm.Machine
	manifest template.Manifest
	draft    *template.Draft
	memory   *os.File
	agent    net.Conn
}

// NewBuild plans the machine that is saved so that machines like m may start from it. The returned
// machine has no share, no taps of an engine and no descriptors of a tenant: what is saved must be
// nobody's. An error says why no machine like m can start from a template, or with missing why none
// more is wanted, and costs nothing.
func (h Host) NewBuild(m vmm.Machine, missing bool) (*Build, vmm.Machine, error) {
	if reason := plan.NoTemplate(m, guestapi.UserNamespace{}); reason != "" {
		return nil, m, fmt.Errorf("no template for such a machine: %s", reason)
	}
	key, err := h.key(m)
	if err != nil {
		return nil, m, err
	}
	if missing {
		if err := h.Store.Lacks(key); err != nil {
			return nil, m, err
		}
	}
	b := &Build{store: h.Store, machine: plan.ForTemplate(m), manifest: template.Manifest{Key: key}}
	for _, nic := range m.NICs {
		b.manifest.MACs = append(b.manifest.MACs, nic.MAC)
	}
	return b, b.machine, b.machine.Validate()
}

// ID is the name that the template will have.
func (b *Build) ID() string { return b.manifest.Key.ID() }

// Begin makes the draft and the memory that will be kept, which stays the Build's. owner is the
// user of the sandbox that is saved.
func (b *Build) Begin(owner jail.Owner) (memory *os.File, err error) {
	if b.draft, err = b.store.Begin(); err != nil {
		return nil, err
	}
	b.memory, err = newMemory(b.machine, owner)
	return b.memory, err
}

// settle is how long a guest that waits is left running: what the kernel puts off until it is idle
// is not put off in every clone. The guest gives what it does not use to its balloon, a part every
// two seconds. Three seconds have one such part in them.
const settle = 3 * time.Second

// Await waits until the agent waits for the host.
func (b *Build) Await(ctx context.Context, vm *hypervisor.VM) error {
	b.agent = vm.Machine.Agent()
	ctx, cancel := vm.Patience(ctx, "the guest's agent sent nothing")
	defer cancel()
	hello, err := guestapi.AwaitHello(ctx, b.agent)
	if err != nil {
		return vm.Silent(err)
	}
	b.manifest.Agent = hello.AgentVersion
	select {
	case <-time.After(settle):
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Hello waits for the first line of an agent, says no more to it and hangs up. It is for the trial
// of a guest image: the hello shows that kernel and agent start on this host.
func Hello(ctx context.Context, vm *hypervisor.VM) error {
	agent := vm.Machine.Agent()
	defer agent.Close() // its guest is not used any further
	ctx, cancel := vm.Patience(ctx, "the guest's agent sent nothing")
	defer cancel()
	if _, err := guestapi.AwaitHello(ctx, agent); err != nil {
		return vm.Silent(err)
	}
	return nil
}

// Save stops the machine and writes the state of its devices.
func (b *Build) Save(ctx context.Context, vm *hypervisor.VM) error {
	b.manifest.QEMUVersion = vm.Machine.Version()
	if err := vm.Machine.Save(ctx, b.draft.State); err != nil {
		return vm.Silent(err)
	}
	return nil
}

// Keep makes the draft a template of the host. It is called after QEMU has ended, so that nothing
// writes to the memory that is read.
func (b *Build) Keep() (template.Manifest, error) { return b.draft.Commit(b.manifest, b.memory) }

// Close removes what was not kept. The machine has ended.
func (b *Build) Close() error {
	var errs []error
	if b.agent != nil {
		errs = append(errs, b.agent.Close())
	}
	if b.memory != nil {
		errs = append(errs, b.memory.Close())
	}
	if b.draft != nil {
		errs = append(errs, b.draft.Close())
	}
	return errors.Join(errs...)
}
