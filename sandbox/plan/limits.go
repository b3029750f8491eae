// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"

	"cloister/oci"
	"cloister/sandbox/cgroup"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// fileServerMiB is the memory of the file server. It holds a descriptor and some bytes for each
// file that the guest knows. With too little of it, a guest that opens many files has the host kill
// its machine.
const fileServerMiB = 128

// maxTasks bounds the processes and threads of QEMU and the file server: a thread for each CPU, 64
// each for the disks' and the file server's requests, and some more.
const maxTasks = 1024

// openDevices are the devices that QEMU opens itself. It gets disks, taps and everything else as
// descriptors. A QEMU that was taken over could otherwise open every disk of the host that its user
// may.
func openDevices() []cgroup.Device {
	return []cgroup.Device{
		{Major: 1, Minor: 3},    // null
		{Major: 1, Minor: 9},    // urandom
		{Major: 10, Minor: 232}, // kvm
	}
}

// memoryLimitMiB is what QEMU and the file server may use together: the machine's memory, what QEMU
// itself needs, and the file server. The same function gives the overhead of a RuntimeClass: two
// sums that differ would have the pod's cgroup kill the machine. A machine without a file server
// may map a template copy-on-write: when it first writes to a page that the template does not have,
// the kernel makes that page in the template's file too, and both are charged to the machine.
func memoryLimitMiB(m vmm.Machine) int {
	if m.Share == nil {
		return 2*m.MemoryMiB + qemu.OverheadMiB(m)
	}
	return m.MemoryMiB + qemu.OverheadMiB(m) + fileServerMiB
}

// hostLimits are a workload's limits as they apply to its whole machine. Memory is never the
// container's own limit: the guest's page cache would have the machine killed. CPU quotas are left
// to the guest, see cgroup.Limits.
func hostLimits(r oci.Resources, m vmm.Machine) cgroup.Limits {
	l := cgroup.Limits{
		MemoryBytes: int64(memoryLimitMiB(m)) << 20,
		CPUShares:   r.CPUShares, CPUs: r.CPUs, Mems: r.Mems, Pids: maxTasks,
		BlockIO: cgroup.BlockIO{
			Weight: r.BlockIO.Weight, WeightDevices: diskLimits(r.BlockIO.WeightDevices),
			ReadBps: diskLimits(r.BlockIO.ReadBps), WriteBps: diskLimits(r.BlockIO.WriteBps),
			ReadIOPS: diskLimits(r.BlockIO.ReadIOPS), WriteIOPS: diskLimits(r.BlockIO.WriteIOPS),
		},
	}
	// OCI counts memory and swap together; the cgroup's limit is of swap alone. What the container
	// may swap, the machine may.
	if swap := r.MemorySwap; swap < 0 {
		l.SwapBytes = &swap
	} else if swap > 0 && r.MemoryLimit > 0 {
		swap -= r.MemoryLimit
		l.SwapBytes = &swap
	}
	return l
}

// diskLimits carries rates of the engine's over; devices are the host's.
func diskLimits(in []oci.BlockIOLimit) []cgroup.DiskLimit {
	out := make([]cgroup.DiskLimit, 0, len(in))
	for _, d := range in {
		out = append(out, cgroup.DiskLimit{Major: d.Major, Minor: d.Minor, Value: d.Value})
	}
	return out
}

// OverheadMiB is what a sandbox may use beside the memory limit of its containers, on a host with
// accel: the limit of its cgroup less theirs. podMiB is their limit; 0 takes the default of sizing.
// A Kubernetes RuntimeClass has to declare it. Otherwise the pod's cgroup is smaller than the
// sandbox's, and the host kills the machine. It plans such a machine and takes its limit, so that
// it follows every change of the sizes.
func OverheadMiB(sizing oci.Sizing, accel vmm.Accel, board vmm.MachineType, hugePages bool, podMiB int) (int, error) {
	size, err := (&oci.Workload{Resources: oci.Resources{MemoryLimit: int64(podMiB) << 20}}).Size(sizing)
	if err != nil {
		return 0, err
	}
	m, err := Machine("overhead", Host{Accel: accel, Kernel: "/k", Initrd: "/i", Small: true, HugePages: hugePages}, board, size, nil)
	if err != nil {
		return 0, err
	}
	return memoryLimitMiB(m) - cmp.Or(podMiB, int(size.ContainerMemory>>20)), nil
}
