// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"cloister/oci"
)

// container is one container, or the pause container of a pod, which exists here alone: its guest
// half is the agent. The fields above mu, but for machine, are set before the container is in the
// Runtime's map and do not change.
type container struct {
	id       string
	bundle   string
	workload *oci.Workload
	pause    bool
	pod      bool // it stands for a pod that the engine made without a container
	init     *process
	machine  atomic.Pointer[Machine] // nil for a pod that has not been started

	mu    sync.Mutex
	execs map[string]*process
	oom   time.Time // of the last TaskOOM; zero for none
}

// oomDue says whether a TaskOOM may be published now, and notes that it is. Two goroutines that ask
// at once get one yes.
func (c *container) oomDue(now time.Time) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.oom.IsZero() && now.Sub(c.oom) < oomInterval {
		return false
	}
	c.oom = now
	return true
}

// process finds a process by exec id; the first one when it is empty. An exec that was deleted is
// ErrNotFound, as clients expect after a Delete.
func (c *container) process(exec string) (*process, error) {
	if exec == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p, ok := c.execs[exec]
	if !ok {
		return nil, fmt.Errorf("exec %s of container %s: %w", exec, c.id, errdefs.ErrNotFound)
	}
	return p, nil
}

// add adds an exec under an id that is free. An id is taken until the exec is deleted, also when it
// has ended.
func (c *container) add(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.execs[p.ref.Exec]; taken {
		return fmt.Errorf("exec %s of container %s: %w", p.ref.Exec, c.id, errdefs.ErrAlreadyExists)
	}
	c.execs[p.ref.Exec] = p
	return nil
}

func (c *container) drop(exec string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, exec)
}

// all are the container's processes, execs first: a container's own exit is told last. It is a
// copy, so that no lock is held while the caller does something with them.
func (c *container) all() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append(slices.Collect(maps.Values(c.execs)), c.init)
}

// died ends the container's processes with their machine. Those that have ended keep their status.
func (c *container) died() {
	for _, p := range c.all() {
		p.exited(Exited{Status: exitGuestDied, At: time.Now()})
	}
}
