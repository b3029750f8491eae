// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"fmt"

	"github.com/containerd/errdefs"

	"cloister/sandbox/statedir"
)

// OfProcess finds the running sandbox of an engine's namespace that has the process, and gives its
// id and its first container's bundle. An engine names a sandbox by its machine's pid when another
// container shares its network. Records decide, not what a process says of itself. A mark in the
// environment would let a process choose the guest that a container joins. The pid must be alive
// with the start time of the record: it may have been given out again. ErrNotFound means that it is
// no sandbox's.
func (h Host) OfProcess(namespace string, pid int) (id, bundle string, err error) {
	dirs, err := statedir.List(h.State)
	if err != nil {
		return "", "", err
	}
	for _, dir := range dirs {
		if string(dir.Namespace()) != namespace {
			continue
		}
		record, err := statedir.Load(dir)
		if err != nil {
			continue // it is going
		}
		for _, e := range record.Effects {
			if e.Kind != statedir.KindProcess || e.Process.PID != pid {
				continue
			}
			if alive, err := e.Process.Alive(); err != nil {
				return "", "", err
			} else if alive {
				return string(record.ID), record.Bundle, nil
			}
		}
	}
	return "", "", fmt.Errorf("process %d is of no sandbox of %s: %w", pid, namespace, errdefs.ErrNotFound)
}
