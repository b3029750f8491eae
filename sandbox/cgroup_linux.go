// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"

	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/sandbox/jail"
	"cloister/sandbox/statedir"
	"cloister/vmm"
)

// helpersMiB is what the file server may use beside QEMU: it holds a descriptor
// and some bytes for each file that the guest knows.
const helpersMiB = 128

// maxTasks bounds the processes and threads of QEMU and its helpers: a thread for each CPU, 64 each for
// the disks' and the file server's requests, and some more.
const maxTasks = 1024

// devices are what QEMU may open by itself. Disks, taps and everything else come to it as descriptors.
func devices() []cgroup.Device {
	return []cgroup.Device{
		{Major: 1, Minor: 3},    // null
		{Major: 1, Minor: 9},    // urandom
		{Major: 10, Minor: 232}, // kvm
	}
}

// enterCgroup makes the cgroup that QEMU and its helpers will run in. Its limit
// is the machine's and an overhead, never the container's own: the guest's page
// cache would have the machine killed.
func (s *Sandbox) enterCgroup(m vmm.Machine) (*cgroup.Group, error) {
	leaf, err := cgroup.Leaf(s.request.Workload.CgroupsPath, s.request.ID)
	if err != nil {
		return nil, err
	}
	group, err := cgroup.At(leaf)
	if err != nil {
		return nil, err
	}
	limits := hostLimits(s.request.Workload.HostResources(), m)
	limits.Pids = maxTasks
	if s.config.Jail.Has(jail.Devices) {
		limits.Devices = devices()
	}
	return group, s.do(statedir.Effect{Kind: statedir.KindCgroup, Path: group.String()}, func(*statedir.Effect) error {
		return group.Create(limits)
	}, func(ctx context.Context) error { return group.Remove(ctx) })
}

// hostLimits are a workload's limits as they apply to its whole machine.
func hostLimits(r oci.Resources, m vmm.Machine) cgroup.Limits {
	l := cgroup.Limits{
		MemoryBytes: int64(memoryLimitMiB(m)) << 20,
		CPUShares:   r.CPUShares, CPUs: r.CPUs, Mems: r.Mems,
		BlockIO: cgroup.BlockIO{
			Weight: r.BlockIO.Weight, WeightDevices: diskLimits(r.BlockIO.WeightDevices),
			ReadBps: diskLimits(r.BlockIO.ReadBps), WriteBps: diskLimits(r.BlockIO.WriteBps),
			ReadIOPS: diskLimits(r.BlockIO.ReadIOPS), WriteIOPS: diskLimits(r.BlockIO.WriteIOPS),
		},
	}
	if swap := r.MemorySwap; swap < 0 {
		l.SwapBytes = &swap
	} else if swap > 0 && r.MemoryLimit > 0 {
		swap -= r.MemoryLimit
		l.SwapBytes = &swap
	}
	return l
}

func diskLimits(in []oci.BlockIOLimit) []cgroup.DiskLimit {
	out := make([]cgroup.DiskLimit, 0, len(in))
	for _, d := range in {
		out = append(out, cgroup.DiskLimit{Major: d.Major, Minor: d.Minor, Value: d.Value})
	}
	return out
}
