// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/vmm"
	"cloister/vmm/internal/child"
)

// DefaultBinary is what an empty Options.Binary means.
const DefaultBinary = "qemu-system-x86_64"

// maxLogBytes bounds QEMU's messages, some of which a guest can provoke.
const maxLogBytes = 1 << 20

// Starter starts a command, under whatever label it stands for.
type Starter interface {
	Start(cmd *exec.Cmd) error
}

// Options are what a machine needs of its host. Files stay the caller's, who may
// close them once Start has returned.
type Options struct {
	// Binary is QEMU's, looked up in PATH; empty means DefaultBinary.
	Binary string
	// Starter starts QEMU; nil is refused.
	Starter Starter
	// Sockets runs open where new sockets get the label QEMU may use; nil runs
	// it here.
	Sockets func(open func() error) error
	// Dir is a folder that nobody else can write to, for a moment's use.
	Dir string
	// Log gets QEMU's messages, up to 1 MiB, and Console the guest's console, up
	// to the machine's Console.MaxBytes: regular files that only this process
	// writes to and that start over when they are full. nil keeps but the tail,
	// in memory.
	Log, Console *os.File
	// Share is a connected socket to the file server; needed with a share.
	Share *os.File
	// Memory is a file of the machine's size, all of whose memory it is: needed with a template,
	// else nil. With CopyOnWrite it is a memfd with all seals (see memfd_create(2)): QEMU opens it
	// for writing, and a balloon would make holes in it.
	Memory *os.File
	// Taps has one tap per NIC, in order.
	Taps []*os.File
	// Disks has one open file per disk, in order; see OpenDisk.
	Disks []*os.File
}

// Start starts a machine that has not run its first instruction yet: Continue
// does that. An error says what QEMU wrote, and leaves nothing behind. When ctx
// ends before Start returns, QEMU is killed; later it has no effect.
func Start(ctx context.Context, m vmm.Machine, o Options) (*Process, error) {
	m = m.WithDefaults()
	if err := o.check(m); err != nil {
		return nil, err
	}
	if err := checkHugePages(m); err != nil {
		return nil, err
	}
	var w *wires
	if o.Sockets == nil {
		o.Sockets = func(mk func() error) error { return mk() }
	}
	err := o.Sockets(func() (err error) { w, err = newWires(o.Dir); return err })
	if err != nil {
		return nil, err
	}
	defer w.closeGuest()
	cmd, err := command(ctx, m, o, w)
	if err != nil {
		w.closeHost()
		return nil, err
	}
	p := &Process{
		machine: m, cmd: cmd, wires: w, sockets: o.Sockets, done: make(chan struct{}),
		luns: map[int]bool{}, deleted: map[string]chan struct{}{},
	}
	if err = p.record(o); err == nil {
		err = child.InheritNothing()
	}
	if err == nil {
		if err = o.Starter.Start(cmd); err != nil {
			err = fmt.Errorf("start %s: %w", cmd.Path, err)
		}
	}
	if err != nil {
		w.closeHost()
		w.closeGuest()
		p.console.Wait()
		p.log.Wait()
		return nil, err
	}
	// A crash of this process before the line is armed leaves a QEMU whose guest has run nothing;
	// cleanup kills it by its pid.
	limits := errors.Join(w.lifeline.arm(p.Pid()), child.NoCore(p.Pid()))
	w.closeGuest()
	if err := errors.Join(limits, p.prepare(ctx, o)); err != nil {
		return nil, p.abandon(err)
	}
	return p, nil
}

// record has console and log kept from the first byte on.
func (p *Process) record(o Options) (err error) {
	if p.console, err = child.Record(p.wires.console, o.Console, p.machine.Console.MaxBytes); err != nil {
		return fmt.Errorf("console: %w", err)
	}
	if p.log, err = child.Record(p.wires.log, o.Log, maxLogBytes); err != nil {
		return fmt.Errorf("log: %w", err)
	}
	return nil
}

// check refuses what cannot start.
func (o Options) check(m vmm.Machine) error {
	if err := m.Validate(); err != nil {
		return err
	}
	wrong := func(what string) error {
		return fmt.Errorf("start machine %s: %s: %w", m.Name, what, errdefs.ErrInvalidArgument)
	}
	switch {
	case o.Starter == nil:
		return wrong("no Starter: name the one that labels QEMU, or the one that labels nothing")
	case o.Dir == "":
		return wrong("no Dir: name the sandbox's own folder")
	case len(o.Taps) != len(m.NICs):
		return wrong(fmt.Sprintf("%d taps for %d NICs", len(o.Taps), len(m.NICs)))
	case len(o.Disks) != len(m.Disks):
		return wrong(fmt.Sprintf("%d files for %d disks", len(o.Disks), len(m.Disks)))
	case (o.Memory == nil) != (m.Origin == vmm.FromKernel):
		return wrong("a template and a file for the memory go together")
	case m.CopyOnWrite && !sealed(o.Memory):
		return wrong("memory that is mapped copy-on-write has no seals, and QEMU could change it")
	case (o.Share == nil) != (m.Share == nil):
		return wrong("a share and its file server's socket go together")
	}
	return nil
}

// sealed says that nobody can change a file any more, a process that has it open for writing
// included.
func sealed(f *os.File) bool {
	const all = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	have, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0)
	return err == nil && have&all == all
}

// command is QEMU, ready for the Starter. Its environment is fixed, and its folder is the root: it
// keeps no mount busy.
func command(ctx context.Context, m vmm.Machine, o Options, w *wires) (*exec.Cmd, error) {
	if o.Binary == "" {
		o.Binary = DefaultBinary
	}
	path, err := exec.LookPath(o.Binary)
	if err != nil {
		return nil, fmt.Errorf("find qemu: %w: install it, or set its path in the config", err)
	}
	files, fds := w.files(o)
	args, err := Args(m, fds)
	if err != nil {
		return nil, err
	}
	// The machine outlives the call that starts it.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), path, args...)
	cmd.ExtraFiles = files
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin", "LC_ALL=C"}
	// As *os.File, lest os/exec make a pipe, whose label nobody chooses.
	cmd.Stdout, cmd.Stderr = w.guest.log, w.guest.log
	return cmd, nil
}

// prepare shakes hands, has QEMU watched and adds what is there from the first
// instruction on.
func (p *Process) prepare(ctx context.Context, o Options) error {
	stop := context.AfterFunc(ctx, p.kill)
	defer stop()
	// A QEMU that dies hangs up, dead or reaped, so this ends in any case.
	mon, err := connect(p.wires.qmp, p.event)
	p.monitor = mon
	go p.wait()
	if err != nil {
		return fmt.Errorf("qmp: %w", errors.Join(ctx.Err(), err))
	}
	for _, n := range p.machine.NICs {
		if n.LinkDown {
			if err := p.SetLink(ctx, n.ID, false); err != nil {
				return err
			}
		}
	}
	for i, d := range p.machine.Disks {
		if err := p.AddDisk(ctx, d, o.Disks[i]); err != nil {
			return err
		}
	}
	return nil
}

// abandon ends a machine that did not start, and says what it said. The agent's connection is
// closed here, as no caller gets the Process that has it.
func (p *Process) abandon(cause error) error {
	killErr := p.Kill()
	if killErr == nil {
		_ = p.wires.agent.Close()
	}
	return &ExitError{
		Op: "start", Machine: p.machine.Name, Cause: errors.Join(cause, killErr),
		Status: p.status, Log: p.log.LastLines(), Console: p.console.LastLines(),
	}
}
