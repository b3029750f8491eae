// SPDX-License-Identifier: Apache-2.0

package clone

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"time"

	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/hypervisor"
	"cloister/sandbox/jail"
	"cloister/sandbox/plan"
	"cloister/sandbox/template"
	"cloister/vmm"
)

// Source is the template that a machine starts from. The nil Source is that of a cold start: its
// methods do nothing. So the order of a start is the same for both, without a branch at each step.
type Source struct {
	template  *template.Template
	memoryMiB int // what the guest may have; the template's guest has as much or more
	store     template.Store
	copied    string           // why memory is a copy; empty: it is mapped copy-on-write
	memory    *os.File         // the machine's own
	copying   *copying         // into memory
	shared    *template.Shared // in place of both
}

// Choose finds the template that a machine of that size may start from, and gives the machine as it
// starts from it: with the memory of the template's class, of which Wake leaves the guest its own.
// An error is no more than the reason for a cold start. The reasons are asked in the order of what
// they cost: an annotation, the plan, a look at the folder, then digests.
func (h Host) Choose(m vmm.Machine, size oci.Size, w *oci.Workload) (*Source, vmm.Machine, error) {
	if w.Settings.ColdStart {
		return nil, m, errors.New("the annotation " + oci.AnnotationStart + " asks for it")
	}
	if reason := plan.NoTemplate(m, plan.Users(w.Namespaces.IDs)); reason != "" {
		return nil, m, errors.New(reason)
	}
	if h.Store.Empty() {
		return nil, m, template.ErrNone
	}
	classed := m
	classed.MemoryMiB = plan.Class(size).MemoryMiB
	key, err := h.key(classed)
	if err != nil {
		return nil, m, err
	}
	t, err := h.Store.Open(key)
	if err != nil {
		// Noted, so that a damaged template is set aside and not read whole at each start.
		if errors.Is(err, template.ErrDamaged) {
			err = errors.Join(err, h.Store.Fail(key.ID(), err.Error()))
		}
		return nil, m, err
	}
	from, err := plan.FromTemplate(classed, t.Manifest.MACs)
	if err != nil {
		return nil, m, errors.Join(err, t.Close())
	}
	s := &Source{template: t, memoryMiB: size.MemoryMiB, store: h.Store, copied: plan.CopyReason(classed, size.MemoryMiB)}
	if s.copied == "" {
		if reason := h.Unshared(); reason != nil {
			s.copied = reason.Error()
		}
	}
	from.CopyOnWrite = s.copied == ""
	return s, from, nil
}

// Memory says what the machine's memory is. `cloister inspect` shows it.
func (s *Source) Memory() string {
	switch {
	case s == nil:
		return "its own"
	case s.copied == "":
		return "copy-on-write of the template's"
	}
	return "copy of the template's: " + s.copied
}

// String says what a sandbox was started from. `cloister ps` and inspect show it.
func (s *Source) String() string {
	if s == nil {
		return "cold"
	}
	return "template " + s.template.Manifest.ID
}

// Recall makes the machine's memory and begins to copy the template's into it, while the machine is
// being made, or gives the memory that it maps copy-on-write (see Release). The copied memory is
// charged to the cgroup. The Source keeps the file and closes it. After an error Close still has to
// be called. ctx plays no part: the copy ends by itself.
func (s *Source) Recall(m vmm.Machine, owner jail.Owner, group *cgroup.Group) (memory *os.File, err error) {
	if s == nil {
		return nil, nil
	}
	if m.CopyOnWrite {
		if s.shared, err = s.store.Share(s.template); err != nil {
			return nil, err
		}
		return s.shared.File, nil
	}
	if s.memory, err = newMemory(m, owner); err != nil {
		return nil, err
	}
	s.copying, err = startCopy(s.memory, s.template, group)
	return s.memory, err
}

// Release lets go of the memory that the machine maps copy-on-write, at the sandbox's end and not
// the start's: others find it there as long. It is no error where there is none.
func (s *Source) Release(context.Context) error {
	if s == nil || s.shared == nil {
		return nil
	}
	return s.shared.Close()
}

// newMemory makes the file of a machine's memory, which is its QEMU's alone. QEMU opens it by name
// (/proc/self/fd/N) as its own user, which must be its owner: 0600 keeps every other sandbox's user
// from it.
func newMemory(m vmm.Machine, owner jail.Owner) (*os.File, error) {
	f, err := template.NewMemory(m.MemoryMiB)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chmod(0o600), f.Chown(int(owner.ID), int(owner.ID))); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Load gives QEMU the state of the devices, once the memory is there. No instruction of the guest
// runs. QEMU is stopped, and stays so.
func (s *Source) Load(ctx context.Context, vm *hypervisor.VM) error {
	if s == nil {
		return nil
	}
	if s.copying != nil {
		if err := s.copying.wait(); err != nil {
			return err
		}
	}
	// Migration between versions is not supported on microvm, and the key has the digest of the
	// program alone, which may start another one.
	if have, want := vm.Machine.Version(), s.template.Manifest.QEMUVersion; have != want {
		return fmt.Errorf("QEMU is %s, the template was made by %s", have, want)
	}
	return vm.Machine.Load(ctx, s.template.State)
}

// Wake has the guest become one of its own, before its agent says hello. It comes before all else
// that the guest is told: keys that the agent draws for anything before it would be the same in all
// clones. What the template has beyond the sandbox's memory is gone from the guest when it returns.
func (s *Source) Wake(ctx context.Context, vm *hypervisor.VM) error {
	if s == nil {
		return nil
	}
	if s.memoryMiB < s.template.Manifest.Key.MemoryMiB {
		// Beside the agent's own start.
		if err := vm.Machine.SetMemory(ctx, s.memoryMiB); err != nil {
			return err
		}
	}
	// What is mapped copy-on-write cannot be given back: see vmm.Machine.CopyOnWrite.
	wake := guestapi.Wake{KeepMemory: s.shared != nil}
	if _, err := rand.Read(wake.Seed[:]); err != nil {
		return err
	}
	if err := guestapi.SendWake(ctx, vm.Machine.Agent(), wake); err != nil {
		return err
	}
	if wake.KeepMemory { // the template's size is the sandbox's
		return nil
	}
	return s.shrunk(ctx, vm)
}

// shrinkPoll is how often QEMU is asked how far the guest's balloon is. Its event comes once a
// second at most.
const shrinkPoll = 5 * time.Millisecond

// shrunk waits until the guest's kernel has no more memory than the sandbox's. A container that
// came earlier could use what the host's cgroup does not allow.
func (s *Source) shrunk(ctx context.Context, vm *hypervisor.VM) error {
	for {
		have, err := vm.Machine.Memory(ctx)
		if err != nil || have <= int64(s.memoryMiB)<<20 {
			return err
		}
		select {
		case <-time.After(shrinkPoll):
		case <-ctx.Done():
			return fmt.Errorf("the guest has %d MiB, want %d: %w", have>>20, s.memoryMiB, context.Cause(ctx))
		}
	}
}

// Close waits for the copy, which ends by itself, and lets go of the files.
func (s *Source) Close() {
	if s == nil {
		return
	}
	if s.copying != nil {
		_ = s.copying.wait() // Load has told of the error, or another came first
	}
	if s.memory != nil {
		_ = s.memory.Close() // QEMU has it
	}
	_ = s.template.Close() // read only
}

// StartError is a start from a template that failed before its guest did anything for the workload.
// The caller repeats the start cold, and calls Note only if that succeeds. Wishes of a workload
// that no machine can meet must not set the template aside for others.
type StartError struct {
	id  string
	err error
}

func (e *StartError) Error() string { return fmt.Sprintf("start from template %s: %v", e.id, e.err) }
func (e *StartError) Unwrap() error { return e.err }

// Blame makes an error of a start one of its template, if it has one and nobody has ended the
// start. A client that has gone, or a shim that is asked to end, makes a start fail that would have
// gone well.
func (s *Source) Blame(ctx context.Context, err error) error {
	if err == nil || s == nil || ctx.Err() != nil {
		return err
	}
	return &StartError{s.template.Manifest.ID, err}
}

// Note has the store know of the failure. The second one sets the template aside.
func (e *StartError) Note(store template.Store) error { return store.Fail(e.id, e.err.Error()) }
