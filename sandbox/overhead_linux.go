// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	goruntime "runtime"

	"cloister/oci"
	"cloister/sandbox/plan"
	"cloister/vmm"
	"cloister/vmm/qemu"
)

// memoryLimitMiB is what QEMU and its helpers may use together: the machine's memory, what
// QEMU itself needs, and the file server.
func memoryLimitMiB(m vmm.Machine) int { return m.MemoryMiB + qemu.OverheadMiB(m) + helpersMiB }

// OverheadMiB is what a sandbox may use beside the memory limit of its containers, on a host
// with accel: its cgroup's limit less theirs. podMiB is that limit; 0 takes the configured
// default. It is what a Kubernetes RuntimeClass has to declare, else the pod's cgroup is
// smaller than the sandbox's and the host kills the machine.
func OverheadMiB(cfg Config, accel vmm.Accel, podMiB int) (int, error) {
	cfg = cfg.withDefaults()
	sizing := cfg.Sizing.OnHost(goruntime.NumCPU())
	size, err := (&oci.Workload{Resources: oci.Resources{MemoryLimit: int64(podMiB) << 20}}).Size(sizing)
	if err != nil {
		return 0, err
	}
	m, err := plan.Machine("overhead", plan.Host{Accel: accel, Kernel: "/k", Initrd: "/i", Small: true, HugePages: cfg.Machine.HugePages}, cfg.Machine.Type, size, nil)
	if err != nil {
		return 0, err
	}
	return memoryLimitMiB(m) - cmp.Or(podMiB, int(size.ContainerMemory>>20)), nil
}
