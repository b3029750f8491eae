// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"

	"cloister/runtime/stdio"
)

// Status is what State tells of a process, all of it taken at one moment but Pid.
type Status struct {
	Bundle string
	Pid    uint32 // 0 once it has stopped
	State  State
	Stdio  stdio.Config
	Exited Exited // when State is Stopped
}

// State tells where a process stands. It does not ask the guest, so it answers while the guest is
// busy or gone.
func (r *Runtime) State(ref Ref) (Status, error) {
	c, p, err := r.process(ref)
	if err != nil {
		return Status{}, err
	}
	state, exited := p.snapshot()
	return Status{Bundle: c.bundle, Pid: r.Pid(), State: state, Stdio: p.stdio, Exited: exited}, nil
}

// Pids gives the machine's pid for a container that exists; 0 when there is no machine. Processes
// of the guest have no pid here.
func (r *Runtime) Pids(id string) (uint32, error) {
	if _, err := r.container(id); err != nil {
		return 0, err
	}
	return r.Pid(), nil
}

// Wait blocks until a process has ended. It returns after the exit has been published.
func (r *Runtime) Wait(ctx context.Context, ref Ref) (Exited, error) {
	_, p, err := r.process(ref)
	if err != nil {
		return Exited{}, err
	}
	return p.wait(ctx)
}
