// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Sizing is the host's rules for the size of machines. A zero field means its default.
type Sizing struct {
	// DefaultMemoryMiB is the memory, in MiB, of workloads without a limit; default 512.
	DefaultMemoryMiB int `toml:"default_memory_mib"`
	// MaxMemoryMiB is the most memory, in MiB, that a workload may ask for; default 1048576 (1
	// TiB).
	MaxMemoryMiB int `toml:"max_memory_mib"`
	// ReserveMiB is added to the workload's memory for the guest's kernel and agent; default 96.
	ReserveMiB int `toml:"reserve_mib"`
	// DefaultCPUs is the number of CPUs of workloads without a quota; default 1.
	DefaultCPUs int `toml:"default_cpus"`
	// MaxCPUs is the most CPUs that a machine gets; default: those of the host.
	MaxCPUs int `toml:"max_cpus"`

	// PodMemoryOpen and PodCPUOpen say that the engine has left the pod's own cgroup without a
	// limit: what the pod's annotations tell is then the sum of its limited containers, and others
	// have no limit.
	PodMemoryOpen bool `toml:"-"`
	PodCPUOpen    bool `toml:"-"`
}

// OnHost returns the rules for a host with that many CPUs: no machine gets more, whatever MaxCPUs
// says. A quota above the host's CPUs means nothing on the host either.
func (s Sizing) OnHost(cpus int) Sizing {
	s.MaxCPUs = min(cmp.Or(s.MaxCPUs, cpus), cpus)
	return s
}

// Bounds and defaults of Sizing.
const (
	defaultMemoryMiB = 512
	defaultMaxMiB    = 1 << 20
	defaultReserve   = 96
	minMemoryBytes   = 4 << 20 // below, no process starts in its cgroup
	minMachineMiB    = 160     // below, no guest starts; a smaller limit is the container's alone
	defaultPeriod    = 100000  // kernel/sched: cpu.cfs_period_us
	maxListed        = 8192    // NR_CPUS of the largest distributions' kernels
)

// Size is a machine's size, which is fixed at its start.
type Size struct {
	MemoryMiB int // of the machine, reserve included
	CPUs      int
	// ContainerMemory is the ceiling, in bytes, of all containers together:
	// the machine without the reserve.
	ContainerMemory int64
}

// Size gives the machine for a Single or Sandbox. Its error names the field
// that is out of bounds and is of the class errdefs.ErrInvalidArgument.
//
// Memory is, first found: annotation io.cloister.memory-mib, the pod's memory
// annotation, linux.resources.memory.limit, the default; plus the reserve.
// CPUs are the annotation io.cloister.cpus, or what the quota (pod's, then
// own) needs, rounded up, at most as many as cpu.cpus lists and the host has.
// A pod with containers without limits gets the default memory on top, and the
// default CPUs at least.
func (w *Workload) Size(s Sizing) (Size, error) {
	s = Sizing{
		DefaultMemoryMiB: cmp.Or(s.DefaultMemoryMiB, defaultMemoryMiB),
		MaxMemoryMiB:     cmp.Or(s.MaxMemoryMiB, defaultMaxMiB),
		ReserveMiB:       cmp.Or(s.ReserveMiB, defaultReserve),
		DefaultCPUs:      cmp.Or(s.DefaultCPUs, 1),
		MaxCPUs:          max(s.MaxCPUs, 1),
		PodMemoryOpen:    s.PodMemoryOpen,
		PodCPUOpen:       s.PodCPUOpen,
	}
	var p problems
	memory := w.memoryMiB(s, &p)
	// A smaller limit holds all the same: it is the container's cgroup's, in the guest.
	memory = max(memory, minMachineMiB-s.ReserveMiB)
	size := Size{
		MemoryMiB:       memory + s.ReserveMiB,
		CPUs:            w.cpus(s, &p),
		ContainerMemory: int64(memory) << 20,
	}
	return size, p.err()
}

// memoryMiB is the containers' memory, rounded up to MiB: a limit that is rounded down would kill a
// container that stays within it. An open pod gets the default on top, as its annotation is the sum
// of its limited containers only.
func (w *Workload) memoryMiB(s Sizing, p *problems) int {
	field, bytes := "annotations."+AnnotationMemoryMiB, int64(w.Settings.MemoryMiB)<<20
	if bytes == 0 {
		field, bytes = "annotations."+annotationPodMemory, w.Pod.MemoryBytes
		if bytes > 0 && s.PodMemoryOpen {
			bytes += int64(s.DefaultMemoryMiB) << 20
		}
	}
	if bytes == 0 {
		field, bytes = "linux.resources.memory.limit", w.Resources.MemoryLimit
	}
	if bytes == 0 {
		return s.DefaultMemoryMiB
	}
	if bytes < minMemoryBytes {
		p.refuse(field, bytes, fmt.Sprintf("is too little to start a process: give at least %d bytes", minMemoryBytes))
		return s.DefaultMemoryMiB
	}
	// Rounded up, in a way that cannot overflow.
	mib := (bytes-1)>>20 + 1
	if mib > int64(s.MaxMemoryMiB) {
		p.refuse(field, bytes,
			fmt.Sprintf("is above the bound of %d MiB: ask for less, or raise sizing.max_memory_mib in cloister's configuration",
				s.MaxMemoryMiB))
		return s.DefaultMemoryMiB
	}
	return int(mib)
}

// cpus is the number of CPUs. It is rounded up from the quota, which the guest's cgroup enforces
// below that number. An annotation beyond the bound is refused, since a user chose it; a quota is
// lowered.
func (w *Workload) cpus(s Sizing, p *problems) int {
	if n := w.Settings.CPUs; n > 0 {
		if n > s.MaxCPUs {
			p.refuse("annotations."+AnnotationCPUs, n,
				fmt.Sprintf("is above the bound of %d: ask for less, or raise sizing.max_cpus in cloister's configuration", s.MaxCPUs))
		}
		return n
	}
	// An open pod's quota is the sum of its limited containers, and the others need CPUs too.
	open := w.Pod.CPUQuota > 0 && s.PodCPUOpen
	quota, period := w.Pod.CPUQuota, w.Pod.CPUPeriod
	if quota <= 0 {
		quota, period = w.Resources.CPUQuota, w.Resources.CPUPeriod
	}
	n := s.DefaultCPUs
	if quota > 0 {
		period = cmp.Or(period, defaultPeriod)
		// Rounded up, and bounded before the conversion: a quota may be any number of 63 bits.
		n = int(min((uint64(quota)-1)/period+1, maxListed))
	}
	if open {
		n = max(n, s.DefaultCPUs)
	}
	// Without a quota a container may use all CPUs that it is bound to; with one, no more than
	// those.
	if listed, err := listCount(w.Resources.CPUs); err == nil && listed > 0 {
		if quota <= 0 {
			n = listed
		}
		n = min(n, listed)
	}
	return min(n, s.MaxCPUs)
}

// listCount counts a kernel list such as 0-2,7. Empty counts 0. maxListed bounds what a list of a
// few bytes can make of memory here.
func listCount(list string) (int, error) {
	list = strings.TrimSpace(list)
	if list == "" {
		return 0, nil
	}
	seen := map[int]bool{}
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.Atoi(first)
		b := a
		if err == nil && ranged {
			b, err = strconv.Atoi(last)
		}
		if err != nil || a < 0 || b < a || b >= maxListed {
			return 0, errors.New("is not a list such as 0-2,7")
		}
		for i := a; i <= b; i++ {
			seen[i] = true
		}
	}
	return len(seen), nil
}
