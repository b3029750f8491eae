// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Resources are the limits that the host's side reads: for the machine's size and for its cgroup.
// Zero means not set. In an Update, zero means that nothing changes.
type Resources struct {
	MemoryLimit       int64 // bytes
	MemoryReservation int64 // bytes
	MemorySwap        int64 // bytes, memory and swap together; -1: no limit
	CPUShares         uint64
	CPUQuota          int64  // microseconds per period
	CPUPeriod         uint64 // microseconds
	CPUs              string // host CPUs, as a list such as 0-2,7
	Mems              string // host memory nodes, as a list
	BlockIO           BlockIO
}

// BlockIO limits what the machine does to host disks. A guest has none of these disks, so the
// host's cgroup enforces it.
type BlockIO struct {
	Weight        uint16 // 10 to 1000
	WeightDevices []BlockIOLimit
	ReadBps       []BlockIOLimit
	WriteBps      []BlockIOLimit
	ReadIOPS      []BlockIOLimit
	WriteIOPS     []BlockIOLimit
}

// BlockIOLimit is a rate or weight for one host disk: bytes or operations a second.
type BlockIOLimit struct {
	Major, Minor int64
	Value        uint64
}

// HostResources are the limits of the machine's cgroup on the host: a Single's
// own; for a pod what its annotations say, since its first container's are those
// of a process that does nothing (shares of 2).
func (w *Workload) HostResources() Resources {
	if w.Role == Single {
		return w.Resources
	}
	return Resources{
		MemoryLimit: w.Pod.MemoryBytes,
		CPUShares:   w.Pod.CPUShares,
		CPUQuota:    max(0, w.Pod.CPUQuota),
		CPUPeriod:   w.Pod.CPUPeriod,
	}
}

// Update is a checked change of a running container's limits.
type Update struct {
	Resources Resources // what changes; zero: stays
	Ignored   []Problem

	spec *specs.LinuxResources
}

// ParseResources reads the LinuxResources of an Update call. Devices that it would newly allow are
// refused: the container was not given them.
func ParseResources(data []byte, _ Options) (*Update, error) {
	var r specs.LinuxResources
	if err := decode(data, &r); err != nil {
		return nil, fmt.Errorf("resources: %w", err)
	}
	var p problems
	u := &Update{Resources: p.resources("resources", &r), spec: &r}
	p.deviceRules(r.Devices, nil)
	if err := p.err(); err != nil {
		return nil, err
	}
	u.Ignored = p.ignored
	return u, nil
}

// GuestResources gives the JSON of the LinuxResources for the guest's runtime. memoryMax is the
// ceiling of a container's memory in bytes, 0 for none. A limit above it is refused: the machine's
// memory is fixed at its start, and the container would be killed below the limit that it was
// promised.
func (u *Update) GuestResources(memoryMax int64) ([]byte, error) {
	if err := withinMachine("resources.memory.limit", u.Resources.MemoryLimit, memoryMax); err != nil {
		return nil, err
	}
	ceiling := int64(0)
	if m := u.spec.Memory; m != nil && m.Limit != nil && *m.Limit == -1 {
		ceiling = memoryMax // no limit means the machine's
	}
	out := guestResources(u.spec, ceiling)
	out.Devices = nil // rules cannot be changed while the container runs
	return json.Marshal(out)
}

// withinCeiling refuses a container's limit that its machine cannot serve, as after a resize that
// restarts it.
func (w *Workload) withinCeiling(ceiling int64) error {
	return withinMachine("linux.resources.memory.limit", w.Resources.MemoryLimit, ceiling)
}

// withinMachine refuses a limit that the machine's memory cannot serve.
func withinMachine(field string, limit, ceiling int64) error {
	if ceiling == 0 || limit <= ceiling {
		return nil
	}
	return &UnsupportedError{[]Problem{{
		field, fmt.Sprint(limit),
		fmt.Sprintf("the machine has %d bytes for containers and its memory is fixed at start: stay below, or start a new "+
			"pod or container", ceiling),
	}}}
}

// resources checks the limits and gives the host's part. Limits that nobody would enforce are
// refused, but for those that engines send by default and whose absence changes nothing.
func (p *problems) resources(field string, r *specs.LinuxResources) Resources {
	var out Resources
	if r == nil {
		return out
	}
	if r.Memory != nil {
		p.memory(field+".memory", r.Memory, &out)
	}
	if r.CPU != nil {
		p.cpu(field+".cpu", r.CPU, &out)
	}
	if r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit < -1 {
		p.refuse(field+".pids.limit", *r.Pids.Limit, "is below -1")
	}
	if r.BlockIO != nil {
		out.BlockIO = p.blockIO(field+".blockIO", r.BlockIO)
	}
	for i, h := range r.HugepageLimits {
		if h.Limit > 0 {
			p.ignore(fmt.Sprintf("%s.hugepageLimits[%d]", field, i), h.Pagesize, "the guest has no huge pages, so that the limit holds")
		}
	}
	if n := r.Network; n != nil && (n.ClassID != nil && *n.ClassID != 0 || len(n.Priorities) > 0) {
		p.refuse(field+".network", nil, "net_cls and net_prio do not reach a guest's packets: shape traffic on the engine's link")
	}
	if len(r.Rdma) > 0 {
		p.refuse(field+".rdma", slices.Sorted(maps.Keys(r.Rdma)), "a guest has no RDMA device: remove it")
	}
	for _, key := range slices.Sorted(maps.Keys(r.Unified)) {
		p.unified(field+".unified", key, r.Unified[key])
	}
	return out
}

// unified checks one file of cgroup v2. What concerns the host's disks, CPUs or nodes means
// something else in the guest; memory.max would miss the machine, which is sized by memory.limit.
func (p *problems) unified(field, key, value string) {
	controller, file, ok := strings.Cut(key, ".")
	switch {
	case !ok || controller == "" || file == "" || strings.ContainsAny(key, "/\x00"):
		p.refuse(field, key, "is not the name of a cgroup v2 file")
	case key == "memory.max":
		p.refuse(field, key+"="+value, "sizes the machine too: use memory.limit")
	case controller == "cgroup":
		p.refuse(field, key, "is the runtime's own: remove it")
	case controller == "cpuset":
		p.refuse(field, key+"="+value, "a guest has CPUs and nodes of its own: use cpu.cpus and cpu.mems")
	case controller == "io":
		p.refuse(field, key+"="+value, "names disks of the host: use blockIO")
	case !slices.Contains([]string{"memory", "cpu", "pids", "hugetlb"}, controller):
		p.refuse(field, key, "is of a controller that the guest does not have")
	}
}

// memory reads limits in bytes; -1 means no limit, 0 not set. Swap stays on the host: the guest has
// none.
func (p *problems) memory(field string, m *specs.LinuxMemory, out *Resources) {
	bytes := func(name string, v *int64, unlimited int64) int64 {
		switch {
		case v == nil || *v == 0:
			return 0
		case *v == -1:
			return unlimited
		case *v < 0:
			p.refuse(field+"."+name, *v, "is below zero")
			return 0
		}
		return *v
	}
	out.MemoryLimit = bytes("limit", m.Limit, 0)
	out.MemoryReservation = bytes("reservation", m.Reservation, 0)
	out.MemorySwap = bytes("swap", m.Swap, -1)
	if out.MemorySwap > 0 && out.MemorySwap < out.MemoryLimit {
		p.refuse(field+".swap", out.MemorySwap, "counts memory and swap together: it cannot be below limit")
	}
	if bytes("kernel", m.Kernel, 0) > 0 { //nolint:staticcheck // deprecated in the spec, and so refused
		p.refuse(field+".kernel", *m.Kernel, "kernels no longer limit it on its own: remove it") //nolint:staticcheck // as above
	}
	if bytes("kernelTCP", m.KernelTCP, 0) > 0 {
		p.refuse(field+".kernelTCP", *m.KernelTCP, "is of cgroup v1, not of v2: remove it")
	}
	if m.DisableOOMKiller != nil && *m.DisableOOMKiller {
		p.refuse(field+".disableOOMKiller", true, "is of cgroup v1, not of v2: remove it, or raise the limit")
	}
	if m.Swappiness != nil {
		if *m.Swappiness > 100 {
			p.refuse(field+".swappiness", *m.Swappiness, "is above 100")
		}
		p.ignore(field+".swappiness", *m.Swappiness, "cgroup v2 has none for a container alone")
	}
	if m.UseHierarchy != nil && !*m.UseHierarchy {
		p.ignore(field+".useHierarchy", false, "cgroup v2 always counts by hierarchy")
	}
}

// cpu reads limits in microseconds. Bounds are the kernel's: it would refuse others with EINVAL
// when the cgroup is written, long after the field's name is known.
func (p *problems) cpu(field string, c *specs.LinuxCPU, out *Resources) {
	if c.Shares != nil {
		out.CPUShares = *c.Shares
	}
	if c.Period != nil && *c.Period != 0 {
		if *c.Period < 1000 || *c.Period > 1000000 { // kernel/sched/core.c: 1 ms to 1 s
			p.refuse(field+".period", *c.Period, "is outside of 1000 to 1000000 microseconds")
		}
		out.CPUPeriod = *c.Period
	}
	if c.Quota != nil && *c.Quota > 0 {
		if *c.Quota < 1000 {
			p.refuse(field+".quota", *c.Quota, "is below 1000 microseconds")
		}
		out.CPUQuota = *c.Quota
	}
	if c.RealtimeRuntime != nil && *c.RealtimeRuntime != 0 {
		p.refuse(field+".realtimeRuntime", *c.RealtimeRuntime, "is of cgroup v1, not of v2: remove it")
	}
	if c.RealtimePeriod != nil && *c.RealtimePeriod != 0 {
		p.refuse(field+".realtimePeriod", *c.RealtimePeriod, "is of cgroup v1, not of v2: remove it")
	}
	if c.Idle != nil && *c.Idle != 0 && *c.Idle != 1 {
		p.refuse(field+".idle", *c.Idle, "is neither 0 nor 1")
	}
	if _, err := listCount(c.Cpus); err != nil {
		p.refuse(field+".cpus", c.Cpus, err.Error())
	}
	if _, err := listCount(c.Mems); err != nil {
		p.refuse(field+".mems", c.Mems, err.Error())
	}
	out.CPUs, out.Mems = c.Cpus, c.Mems
}

// blockIO reads weights and rates for disks of the host. Leaf weights were removed from kernels
// with CFQ.
func (p *problems) blockIO(field string, b *specs.LinuxBlockIO) BlockIO {
	var out BlockIO
	if b.LeafWeight != nil && *b.LeafWeight != 0 {
		p.refuse(field+".leafWeight", *b.LeafWeight, "kernels no longer have it: use weight")
	}
	if b.Weight != nil && *b.Weight != 0 {
		if *b.Weight < 10 || *b.Weight > 1000 {
			p.refuse(field+".weight", *b.Weight, "is outside of 10 to 1000")
		}
		out.Weight = *b.Weight
	}
	for i, d := range b.WeightDevice {
		if d.LeafWeight != nil && *d.LeafWeight != 0 {
			p.refuse(fmt.Sprintf("%s.weightDevice[%d].leafWeight", field, i), *d.LeafWeight, "kernels no longer have it: use weight")
		}
		if d.Weight != nil {
			out.WeightDevices = append(out.WeightDevices, BlockIOLimit{d.Major, d.Minor, uint64(*d.Weight)})
		}
	}
	rates := func(in []specs.LinuxThrottleDevice) []BlockIOLimit {
		var list []BlockIOLimit
		for _, d := range in {
			list = append(list, BlockIOLimit{d.Major, d.Minor, d.Rate})
		}
		return list
	}
	out.ReadBps, out.WriteBps = rates(b.ThrottleReadBpsDevice), rates(b.ThrottleWriteBpsDevice)
	out.ReadIOPS, out.WriteIOPS = rates(b.ThrottleReadIOPSDevice), rates(b.ThrottleWriteIOPSDevice)
	return out
}

// guestResources gives the guest's part. ceiling bounds the memory in bytes; a container without a
// limit of its own gets it. So its own cgroup kills it, before the guest as a whole has no memory.
// Swap, cpusets and disks are the host's.
func guestResources(r *specs.LinuxResources, ceiling int64) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r == nil {
		r = &specs.LinuxResources{}
	}
	for _, d := range deniedFirst(r.Devices) {
		out.Devices = append(out.Devices, specs.LinuxDeviceCgroup{
			Allow: d.Allow, Type: d.Type, Major: d.Major,
			Minor: d.Minor, Access: d.Access,
		})
	}
	m := cmp.Or(r.Memory, &specs.LinuxMemory{})
	memory := specs.LinuxMemory{Limit: m.Limit, Reservation: m.Reservation, CheckBeforeUpdate: m.CheckBeforeUpdate}
	// No limit means the machine's. A container that has none of its own must still not take the
	// memory of kernel and agent.
	if limit := m.Limit; ceiling > 0 && (limit == nil || *limit <= 0) {
		memory.Limit = &ceiling
	}
	// 0 means not set; a cgroup would take it literally.
	if memory.Limit != nil && *memory.Limit == 0 {
		memory.Limit = nil
	}
	if memory != (specs.LinuxMemory{}) {
		out.Memory = &memory
	}
	if c := r.CPU; c != nil {
		out.CPU = &specs.LinuxCPU{Shares: c.Shares, Quota: c.Quota, Period: c.Period, Idle: c.Idle}
		if c.Burst != nil { // the guest's runtime does not know it, but passes cgroup files on
			out.Unified = map[string]string{"cpu.max.burst": fmt.Sprint(*c.Burst)}
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		out.Pids = &specs.LinuxPids{Limit: r.Pids.Limit}
	}
	if len(r.Unified) > 0 {
		if out.Unified == nil {
			out.Unified = map[string]string{}
		}
		maps.Copy(out.Unified, r.Unified)
	}
	return out
}
