// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/statedir"
)

// overheadMiB is what QEMU and the file server need beside the machine's own
// memory. It is a ceiling, not a cost: the README has what was measured.
const overheadMiB = 256

// enterCgroup makes the cgroup that QEMU and its helpers will run in. Its limit
// is the machine's and an overhead, never the container's own: the guest's page
// cache would have the machine killed.
func (s *Sandbox) enterCgroup() error {
	leaf, err := cgroup.Leaf(s.request.Workload.CgroupsPath, s.request.ID)
	if err != nil {
		return err
	}
	group, err := cgroup.At(leaf)
	if err != nil {
		return err
	}
	r := s.request.Workload.Resources
	limits := cgroup.Limits{
		MemoryBytes: int64(s.size.MemoryMiB+overheadMiB) << 20,
		CPUShares:   r.CPUShares, CPUs: r.CPUs, Mems: r.Mems,
	}
	return s.do(statedir.Effect{Kind: statedir.KindCgroup, Path: group.String()}, func(*statedir.Effect) error {
		if err := group.Create(limits); err != nil {
			return err
		}
		s.cgroup = group
		return nil
	}, func(ctx context.Context) error { return group.Remove(ctx) })
}
