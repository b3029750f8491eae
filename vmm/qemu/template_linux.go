// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/vmm"
	"cloister/vmm/internal/child"
)

// Ends of a migration, as QEMU's event MIGRATION calls them.
const (
	migrationCompleted = "completed"
	migrationFailed    = "failed"
)

// stateFD is the name by which QEMU knows the descriptor of a state.
const stateFD = "state"

// maxState bounds the state of a machine's devices: 40 to 140 kB were seen.
const maxState = 16 << 20

// Save stops the machine, which must be ForTemplate, and writes the state of its devices. Its
// memory is in Options.Memory from then on. The machine does not run again: end it by Stop.
func (p *Process) Save(ctx context.Context, state io.Writer) error {
	if p.machine.Origin != vmm.ForTemplate {
		return fmt.Errorf("save machine %s: it is no template: %w", p.machine.Name, errdefs.ErrFailedPrecondition)
	}
	if err := p.monitor.run(ctx, "stop", nil, nil); err != nil {
		return fmt.Errorf("save: %w", err)
	}
	err := p.migrate(ctx, "migrate", func(from *os.File) error { // until QEMU closes its end
		n, err := io.Copy(state, io.LimitReader(from, maxState+1))
		if n > maxState {
			err = errors.Join(err, fmt.Errorf("a state of more than %d bytes", maxState))
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("save: %w", err)
	}
	return nil
}

// Load gives a machine FromTemplate, once its memory is what it was, the state that Save wrote. No
// instruction of the guest runs: Continue does that.
func (p *Process) Load(ctx context.Context, state io.Reader) error {
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
	err := p.migrate(ctx, "migrate-incoming", func(to *os.File) error {
		_, err := io.Copy(to, state)
		if errors.Is(err, unix.EPIPE) { // QEMU closed its end, and says why
			err = nil
		}
		return errors.Join(err, to.Close())
	})
	if err != nil {
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

// realizeShare takes the file server's device from the guest's bus, or puts it there.
func (p *Process) realizeShare(ctx context.Context, yes bool) error {
	args := map[string]any{"path": "/machine/peripheral/" + shareDevice, "property": "realized", "value": yes}
	return p.monitor.run(ctx, "qom-set", args, nil)
}

// migrate has QEMU write its state, or read it, through a socket: its user may not open files of a
// template, nor may its domain. move gets this side's end. QEMU leaves out memory that is shared.
func (p *Process) migrate(ctx context.Context, command string, move func(*os.File) error) error {
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	capabilities := map[string]any{"capabilities": []map[string]any{
		{"capability": "x-ignore-shared", "state": true}, {"capability": "events", "state": true},
	}}
	if err := p.monitor.run(ctx, "migrate-set-capabilities", capabilities, nil); err != nil {
		return err
	}
	var host, guest *os.File
	err := p.sockets(func() (err error) { host, guest, err = child.Socketpair(stateFD); return err })
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = host.Close() })() // ends move
	moved := make(chan error, 1)
	go func() { moved <- move(host) }()
	err = p.monitor.run(ctx, "getfd", map[string]any{"fdname": stateFD}, guest)
	if err = errors.Join(err, guest.Close()); err == nil {
		err = p.runMigration(ctx, command)
	}
	if err != nil {
		_ = host.Close()
	}
	return errors.Join(err, <-moved, ignoreClosed(host.Close()))
}

// ignoreClosed drops the error of a second Close.
func ignoreClosed(err error) error {
	if errors.Is(err, os.ErrClosed) {
		return nil
	}
	return err
}

// runMigration returns when QEMU has told how a migration ended.
func (p *Process) runMigration(ctx context.Context, command string) error {
	ended := make(chan string, 1)
	p.mu.Lock()
	p.migrated = ended
	p.mu.Unlock()
	if err := p.monitor.run(ctx, command, map[string]any{"uri": "fd:" + stateFD}, nil); err != nil {
		return err
	}
	select {
	case status := <-ended:
		if status != migrationCompleted {
			return fmt.Errorf("qmp %s: %s", command, status)
		}
		return nil
	case <-p.done: // a QEMU that cannot read a state ends
		return errors.Join(fmt.Errorf("qmp %s: %w", command, errGone), p.Err())
	case <-ctx.Done():
		return fmt.Errorf("qmp %s: not finished: %w", command, ctx.Err())
	}
}
