// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"

	"github.com/containerd/log"

	"cloister/oci"
	"cloister/sandbox/hooks"
)

// before runs the hooks that must succeed before the container exists in the guest: engines attach
// networks by them, with the machine's pid in the state. The first one that fails ends the Create,
// as OCI has it. The client's context bounds them.
func (r *Runtime) before(ctx context.Context, c *container) error {
	state := r.hookState(c, hooks.Creating)
	if err := hooks.Run(ctx, c.workload.Hooks.Prestart, state, r.hooks); err != nil {
		return fmt.Errorf("prestart: %w", err)
	}
	if err := hooks.Run(ctx, c.workload.Hooks.CreateRuntime, state, r.hooks); err != nil {
		return fmt.Errorf("createRuntime: %w", err)
	}
	return nil
}

// after runs hooks whose errors change nothing any more, also when the client has gone: what it was
// is done.
func (r *Runtime) after(ctx context.Context, c *container, list []oci.Hook, status hooks.Status) {
	if err := hooks.RunAll(context.WithoutCancel(ctx), list, r.hookState(c, status), r.hooks); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Warn("hooks")
	}
}

// hookState is what a hook reads on its stdin. The pid is the machine's, whose network namespace is
// the container's; a stopped container has none.
func (r *Runtime) hookState(c *container, status hooks.Status) hooks.State {
	s := hooks.State{ID: c.id, Status: status, Bundle: c.bundle, Annotations: c.workload.Annotations}
	if status != hooks.Stopped {
		s.Pid = int(r.Pid())
	}
	return s
}
