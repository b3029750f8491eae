// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"fmt"
	"sync"

	"github.com/containerd/errdefs"

	"cloister/oci"
)

// container is one container, or the pause container of a pod, which exists
// here alone: its guest half is the agent.
type container struct {
	id       string
	bundle   string
	workload *oci.Workload
	pause    bool
	init     *process

	mu    sync.Mutex
	execs map[string]*process // nil value: the exec is being added
}

// process finds a process by exec id; the first one when it is empty.
func (c *container) process(exec string) (*process, error) {
	if exec == "" {
		return c.init, nil
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.execs[exec]
	if p == nil {
		return nil, fmt.Errorf("exec %s of container %s: %w", exec, c.id, errdefs.ErrNotFound)
	}
	return p, nil
}

// reserve takes an exec id until put or drop.
func (c *container) reserve(exec string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, taken := c.execs[exec]; taken {
		return fmt.Errorf("exec %s of container %s: %w", exec, c.id, errdefs.ErrAlreadyExists)
	}
	c.execs[exec] = nil
	return nil
}

func (c *container) put(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.execs[p.ref.Exec] = p
}

func (c *container) drop(exec string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.execs, exec)
}

// all are the container's processes, execs first: a container's own exit is told last.
func (c *container) all() []*process {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ps []*process
	for _, p := range c.execs {
		if p != nil {
			ps = append(ps, p)
		}
	}
	return append(ps, c.init)
}
