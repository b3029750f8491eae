// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"runtime"

	"cloister/oci"
	"cloister/sandbox/cgroup"
)

// sizing are the configured rules for machines, and what the host says of this one.
func (s *Sandbox) sizing() (oci.Sizing, error) {
	sizing := s.config.Sizing.OnHost(runtime.NumCPU())
	if s.request.Workload.Role != oci.Sandbox {
		return sizing, nil
	}
	leaf, err := cgroup.Leaf(s.request.Workload.CgroupsPath, s.request.ID)
	if err != nil {
		return sizing, err
	}
	group, err := cgroup.At(leaf)
	if err != nil {
		return sizing, err
	}
	open, err := group.PodOpen()
	sizing.PodMemoryOpen, sizing.PodCPUOpen = open.Memory, open.CPU
	return sizing, err
}
