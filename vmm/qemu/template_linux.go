// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"

	"cloister/vmm"
)

// Ends of a migration, as QEMU's event MIGRATION calls them.
const (
	migrationCompleted = "completed"
	migrationFailed    = "failed"
)

// stateFD is the name by which QEMU knows the descriptor of a state.
const stateFD = "state"

// Save stops the machine, which must be ForTemplate, and writes the state of its devices to a file.
// Its memory is in Options.Memory from then on. The machine does not run again: end it by Stop.
func (p *Process) Save(ctx context.Context, state *os.File) error {
	if p.machine.Origin != vmm.ForTemplate {
		return fmt.Errorf("save machine %s: it is no template: %w", p.machine.Name, errdefs.ErrFailedPrecondition)
	}
	if err := p.monitor.run(ctx, "stop", nil, nil); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	if err := p.migrate(ctx, "migrate", state); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// Load gives a machine FromTemplate, once its memory is what it was, the state that Save wrote. No
// instruction of the guest runs: Continue does that.
func (p *Process) Load(ctx context.Context, state *os.File) error {
	if p.machine.Origin != vmm.FromTemplate {
		return fmt.Errorf("load machine %s: it does not wait for a template: %w", p.machine.Name, errdefs.ErrFailedPrecondition)
	}
	// Before 8.2 QEMU refuses a state while a file server's device is there, which cannot be
	// migrated. The saved machine had none: it takes part from after the load on.
	detach := p.machine.Share != nil && p.before(8, 2)
	if detach {
		if err := p.realizeShare(ctx, false); err != nil {
			return fmt.Errorf("load: %w", err)
		}
	}
	if err := p.migrate(ctx, "migrate-incoming", state); err != nil {
		return fmt.Errorf("load: %w", err)
	}
	if detach {
		if err := p.realizeShare(ctx, true); err != nil {
			return fmt.Errorf("load: %w", err)
		}
	}
	return nil
}

// before reports whether QEMU is older than a version.
func (p *Process) before(major, minor int) bool {
	v := p.wires.qmp.Version.QEMU
	return v.Major < major || v.Major == major && v.Minor < minor
}

func (p *Process) realizeShare(ctx context.Context, yes bool) error {
	args := map[string]any{"path": "/machine/peripheral/" + shareDevice, "property": "realized", "value": yes}
	return p.monitor.run(ctx, "qom-set", args, nil)
}

// migrate has QEMU write its state to a file, or read it. QEMU leaves out memory that is shared,
// and tells of the end.
func (p *Process) migrate(ctx context.Context, command string, state *os.File) error {
	capabilities := map[string]any{"capabilities": []map[string]any{
		{"capability": "x-ignore-shared", "state": true}, {"capability": "events", "state": true},
	}}
	if err := p.monitor.run(ctx, "migrate-set-capabilities", capabilities, nil); err != nil {
		return err
	}
	if err := p.monitor.run(ctx, "getfd", map[string]any{"fdname": stateFD}, state); err != nil {
		return err
	}
	ended := make(chan string, 1)
	p.mu.Lock()
	p.migrated = ended
	p.mu.Unlock()
	if err := p.monitor.run(ctx, command, map[string]any{"uri": "fd:" + stateFD}, nil); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	select {
	case status := <-ended:
		if status != migrationCompleted {
			return fmt.Errorf("qmp %s: %s", command, status)
		}
		return nil
	case <-p.done: // a QEMU that cannot read a state ends
		return errors.Join(fmt.Errorf("qmp %s: %w", command, errGone), p.Err())
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: no end: %w", command, ctx.Err())
	}
}
