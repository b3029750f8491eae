// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"fmt"
	"strings"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"

	"cloister/oci"
)

// joins gives the process of the guest whose namespaces the container is to join, 0 for none: those
// of another container beside it in the guest (--pid container:NAME, kubectl debug --target). What
// a pod shares among all its containers is the sandbox's. The pid is the guest's and goes back to
// the guest alone.
func (r *Runtime) joins(ctx context.Context, m *Machine, c *container) (pid uint32, err error) {
	id, err := target(c.workload, r.beside(c))
	if err != nil || id == "" {
		return 0, err
	}
	state, err := m.Guest.Task().State(ctx, &taskapi.StateRequest{ID: id})
	if err != nil {
		return 0, fmt.Errorf("namespaces of container %s: %w", id, err)
	}
	if state.GetPid() == 0 {
		return 0, fmt.Errorf("namespaces of container %s: it is not running: %w", id, errdefs.ErrFailedPrecondition)
	}
	return state.GetPid(), nil
}

// neighbour is a container that runs in the same guest; ownPID says that it has a pid namespace of
// its own.
type neighbour struct {
	id     string
	ownPID bool
}

// beside lists the containers that c could mean: not itself, no pause container, none that has
// ended.
func (r *Runtime) beside(c *container) []neighbour {
	var out []neighbour
	for _, other := range r.all() {
		if state, _ := other.init.snapshot(); other == c || other.pause || state == Stopped {
			continue
		}
		out = append(out, neighbour{other.id, !other.workload.Namespaces.PID.Shared()})
	}
	return out
}

// target decides whose namespaces a workload joins, empty for nobody's. Engines name them by a pid
// of the host, and there all containers of a guest have the machine's: so it is known where only
// one comes into question. A member of a pod joins the pod's pid namespace where no other container
// has one of its own. To guess among several would show one container's processes to another.
func target(w *oci.Workload, beside []neighbour) (string, error) {
	n := w.Namespaces
	var candidates []string
	for _, b := range beside {
		if w.Role != oci.Member || b.ownPID {
			candidates = append(candidates, b.id)
		}
	}
	switch {
	case w.Role == oci.Sandbox,
		w.Role == oci.Member && (!n.PID.Shared() || len(candidates) == 0),
		w.Role == oci.Single && !n.PID.Shared() && !n.IPC.Shared() && !n.UTS.Shared():
		return "", nil
	case len(candidates) == 1:
		return candidates[0], nil
	case len(candidates) == 0:
		return "", fmt.Errorf("linux.namespaces: the container whose namespaces are to be joined is not running: %w",
			errdefs.ErrFailedPrecondition)
	}
	return "",
		fmt.Errorf("linux.namespaces: the guest runs %s, and on the host all have the machine's pid, so the pid does not tell which one "+
			"to join: run only one container beside it, or share the whole pod's processes (shareProcessNamespace): %w",
			strings.Join(candidates, ", "), errdefs.ErrInvalidArgument)
}
