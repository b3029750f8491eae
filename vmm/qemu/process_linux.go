// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/digitalocean/go-qemu/qmp"

	"cloister/vmm"
	"cloister/vmm/internal/child"
)

// Bounds of Stop: how long QEMU may take to quit by itself, and to go once killed.
const (
	quitTimeout = 2 * time.Second
	killTimeout = 5 * time.Second
)

// Process is a QEMU that has been started. Its methods may be called by anyone at
// once and after its end.
type Process struct {
	machine vmm.Machine
	cmd     *exec.Cmd
	wires   *wires
	sockets func(open func() error) error // Options.Sockets
	monitor *monitor
	// console and log are what guest and QEMU wrote.
	console, log *child.Recorder
	// done is closed when QEMU has been waited for; status and exitErr are
	// set before.
	done    chan struct{}
	status  string
	exitErr error

	// disks makes changes of disks wait for each other and guards luns.
	disks sync.Mutex
	luns  map[int]bool

	// mu guards what follows.
	mu sync.Mutex
	// stopping is set once the end is our wish.
	stopping bool
	// ending is the last event that told of an end.
	ending string
	// deleted has a channel for each device whose removal is awaited.
	deleted map[string]chan struct{}
	// migrated gets how a save or load ended; nil while there is none.
	migrated chan string
}

// ExitError is a machine that ended without being asked to, or did not start.
type ExitError struct {
	// Op is "start" or "run".
	Op string
	// Machine is the machine's name.
	Machine string
	// Cause is what was tried and went wrong; nil when running.
	Cause error
	// Status is the process's end, and Event QEMU's word on it, if any.
	Status, Event string
	// Log and Console are the last lines of QEMU and guest.
	Log, Console string
}

// Error tells all of it on several lines.
func (e *ExitError) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s machine %s", e.Op, e.Machine)
	if e.Cause != nil {
		fmt.Fprintf(&b, ": %v", e.Cause)
	}
	fmt.Fprintf(&b, ": qemu ended: %s", e.Status)
	if e.Event != "" {
		fmt.Fprintf(&b, " (%s)", e.Event)
	}
	for _, part := range []struct{ name, text string }{{"qemu", e.Log}, {"console", e.Console}} {
		if part.text != "" {
			fmt.Fprintf(&b, "\n%s: %s", part.name, strings.ReplaceAll(part.text, "\n", "\n"+part.name+": "))
		}
	}
	return b.String()
}

// Unwrap gives the cause and the class, errdefs.ErrUnavailable.
func (e *ExitError) Unwrap() []error {
	if e.Cause == nil {
		return []error{errdefs.ErrUnavailable}
	}
	return []error{e.Cause, errdefs.ErrUnavailable}
}

// Pid is QEMU's process id, not reused before Done.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Version is QEMU's, as 7.2.22.
func (p *Process) Version() string { return p.wires.qmp.Version.String() }

// Agent is the host's end of the agent's port. It ends when QEMU does; closing it
// is a hang-up to the guest.
func (p *Process) Agent() net.Conn { return p.wires.agent }

// ConsoleTail returns the console's last lines, fit for an error.
func (p *Process) ConsoleTail() string { return p.console.LastLines() }

// Done is closed when QEMU has ended and has been waited for.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err says, after Done, why the machine ended: nil after Stop, Kill or ExpectExit
// and when the guest powered off, else an *ExitError. Before Done it is nil.
func (p *Process) Err() error {
	select {
	case <-p.done:
		return p.exitErr
	default:
		return nil
	}
}

// Sockets are this process's ends of the agent's, the console's and the log's connections, to read
// back whose the other ends are. They stay the Process's. The monitor's is not among them, as its
// library does not show it.
func (p *Process) Sockets() []syscall.Conn {
	all := []syscall.Conn{p.wires.console, p.wires.log}
	if agent, ok := p.wires.agent.(syscall.Conn); ok {
		all = append(all, agent)
	}
	return all
}

// Continue lets the machine run. It is called once its labels, ids and jail have been read back.
func (p *Process) Continue(ctx context.Context) error {
	return p.monitor.run(ctx, "cont", nil, nil)
}

// Status is QEMU's word for the state of the machine's CPUs, as running, paused or internal-error.
func (p *Process) Status(ctx context.Context) (string, error) {
	data, err := p.monitor.ask(ctx, "query-status", nil, nil)
	if err != nil {
		return "", err
	}
	var answer struct {
		Return struct {
			Status string `json:"status"`
		} `json:"return"`
	}
	if err := json.Unmarshal(data, &answer); err != nil {
		return "", fmt.Errorf("qmp query-status: %w", err)
	}
	return answer.Return.Status, nil
}

// SetLink gives a NIC carrier, or takes it.
func (p *Process) SetLink(ctx context.Context, nic string, up bool) error {
	args := struct {
		Name string `json:"name"`
		Up   bool   `json:"up"`
	}{nicDevice(vmm.NIC{ID: nic}), up}
	if err := p.monitor.run(ctx, "set_link", args, nil); err != nil {
		return fmt.Errorf("link of %s: %w", nic, err)
	}
	return nil
}

// ExpectExit says that the guest has been asked to end: whatever it does for that
// is then in order. A microvm, for one, cannot power off but only reset.
func (p *Process) ExpectExit() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.stopping = true
}

// Stop ends the machine without the guest's consent: it has QEMU quit, which
// flushes disks, and kills it when it does not within a bound or when ctx ends.
// It returns once the process is gone; the error is one that does not die.
func (p *Process) Stop(ctx context.Context) error {
	p.ExpectExit()
	ctx, cancel := context.WithTimeout(ctx, quitTimeout)
	defer cancel()
	if err := p.monitor.run(ctx, "quit", nil, nil); err == nil {
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
		}
	}
	return p.Kill()
}

// Kill ends the machine at once; see Stop.
func (p *Process) Kill() error {
	p.ExpectExit()
	p.kill()
	select {
	case <-p.done:
		return nil
	case <-time.After(killTimeout):
		return fmt.Errorf("qemu %d is still there %v after SIGKILL", p.Pid(), killTimeout)
	}
}

func (p *Process) kill() { _ = p.cmd.Process.Kill() }

// wait collects the process and ends all that belongs to it. What QEMU and guest wrote last is read
// to its end before the error is made.
func (p *Process) wait() {
	err := p.cmd.Wait()
	// The other ends are gone, so all readers meet an end by themselves.
	p.console.Wait()
	p.log.Wait()
	if p.monitor != nil {
		<-p.monitor.drained
		p.monitor.close()
	} else {
		_ = p.wires.qmp.Disconnect()
	}
	_ = p.wires.lifeline.host.Close()

	p.mu.Lock()
	stopping, ending := p.stopping, p.ending
	p.mu.Unlock()
	p.status = p.cmd.ProcessState.String()
	inOrder := err == nil && ending == guestShutdown
	if !stopping && !inOrder {
		p.exitErr = &ExitError{
			Op: "run", Machine: p.machine.Name, Status: p.status, Event: ending,
			Log: p.log.LastLines(), Console: p.console.LastLines(),
		}
	}
	close(p.done)
}

// guestShutdown is what ending says when the guest powered off.
const guestShutdown = "SHUTDOWN guest-shutdown"

// event notes what QEMU tells by itself. It must not wait: the monitor's events all come through
// it.
func (p *Process) event(e qmp.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e.Event {
	case "SHUTDOWN", "RESET", "GUEST_PANICKED":
		reason, _ := e.Data["reason"].(string)
		p.ending = strings.TrimSpace(e.Event + " " + reason)
	case "MIGRATION":
		status, _ := e.Data["status"].(string)
		if p.migrated != nil && (status == migrationCompleted || status == migrationFailed) {
			p.migrated <- status
			p.migrated = nil
		}
	case "DEVICE_DELETED":
		id, _ := e.Data["device"].(string)
		if ch, ok := p.deleted[id]; ok {
			close(ch)
			delete(p.deleted, id)
		}
	}
}

var errGone = errors.New("qemu has ended")
