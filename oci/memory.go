// SPDX-License-Identifier: Apache-2.0

package oci

import "path"

// hostMemory is the host's own shared memory, which an engine names for a pod with hostIPC.
const hostMemory = "/dev/shm"

// OwnMemory is the source of the shared memory that an engine has made for a pod, as the pod's
// first container has it; empty for none. A user names no mounts of that container. bundle is the
// container's, which a relative source is below.
func (w *Workload) OwnMemory(bundle string) string {
	if w.Role != Sandbox {
		return ""
	}
	for _, m := range w.Mounts {
		if source := absolute(bundle, m.Source); m.Purpose == SharedMemory && m.Source != "" && source != hostMemory {
			return source
		}
	}
	return ""
}

// ClaimMemory makes a volume of each bind mount at /dev/shm that is not the pod's own shared
// memory, as OwnMemory of its first container gives it. A folder of the host that a pod names for
// that place is a user's: it is mounted there as elsewhere, and held to the rules for volumes.
func (w *Workload) ClaimMemory(own, bundle string) {
	for i, m := range w.Mounts {
		if m.Purpose == SharedMemory && (own == "" || absolute(bundle, m.Source) != own) {
			w.Mounts[i].Purpose = Volume
		}
	}
}

func absolute(bundle, name string) string {
	if path.IsAbs(name) {
		return path.Clean(name)
	}
	return path.Join(bundle, name)
}
