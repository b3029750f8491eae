// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// Open says which limits a pod's own cgroup does not have. A field is true where the pod may use as
// much as the node has.
type Open struct{ Memory, CPU bool }

// PodOpen reads the limits of the cgroup above the leaf, which a kubelet has made for the pod. It
// sets each one only where every container of the pod has such a limit. Other engines' parents say
// nothing of a pod, and none of their limits counts as open. The machine's size depends on it. The
// pod's annotations have the sum of its limited containers only, and a pod with one container
// without a limit would get a machine for the others alone.
func (g *Group) PodOpen() (Open, error) {
	pod := path.Dir(g.leaf)
	if !kubelets(pod) {
		return Open{}, nil
	}
	memory, err := g.podLimit(pod, "memory", "memory.max", "memory.limit_in_bytes")
	if err != nil {
		return Open{}, err
	}
	cpu, err := g.podLimit(pod, "cpu", "cpu.max", "cpu.cfs_quota_us")
	if err != nil {
		return Open{}, err
	}
	// v1 writes no limit of memory as the largest count of pages, in bytes.
	const none = 1 << 62
	n, err := strconv.ParseInt(memory, 10, 64)
	return Open{
		Memory: memory == "max" || err == nil && n >= none,
		CPU:    strings.HasPrefix(cpu, "max") || cpu == "-1",
	}, nil
}

// kubelets says that the cgroup is below those that a kubelet makes for pods, by either of
// its drivers.
func kubelets(group string) bool {
	for part := range strings.SplitSeq(group, "/") {
		if part == "kubepods" || part == "kubepods.slice" {
			return true
		}
	}
	return false
}

// podLimit reads a limit by its name in cgroup v2 or v1; empty where the host has none. A group
// that is gone, or a controller that is not delegated, has no limit that could be read; it is not
// taken for open.
func (g *Group) podLimit(pod, controller, unified, v1 string) (string, error) {
	h, ok := g.v1(controller)
	file := v1
	if !ok {
		if h, ok = g.unified(controller); !ok {
			return "", nil
		}
		file = unified
	}
	value, err := g.files.read(path.Join(h.mount, pod, file))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("cgroup %s: read %s: %w", pod, file, err)
	}
	return value, nil
}
