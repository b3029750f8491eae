// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"strconv"
)

// Limits of a sandbox's processes together. A zero field sets nothing. A workload's CPU quota is
// held in its guest: repeated here, the machine's own work would be taken from it. The zero Limits
// set nothing. Pids bounds what a QEMU that was taken over can fork.
type Limits struct {
	MemoryBytes int64 // of the machine with all overhead
	// SwapBytes is how much may be swapped out: nil not set, -1 no limit. It
	// does nothing where the kernel does not count swap.
	SwapBytes  *int64
	CPUShares  uint64 // 2 to 262144
	CPUQuota   int64  // microseconds per period; -1: no limit
	CPUPeriod  uint64 // microseconds
	CPUs, Mems string // lists such as 0-2,7
	BlockIO    BlockIO
	Pids       int64 // processes and threads
	// Devices are all that may be opened, by name; nil sets nothing. They are set by Create alone.
	Devices []Device
}

// Device is a character device that the processes of a leaf may open for reading and writing.
type Device struct{ Major, Minor int64 }

// BlockIO limits what the machine does to host disks. Rates are per second, bytes or calls. They
// bound the whole machine: page cache that its guest writes back counts as the file server's.
type BlockIO struct {
	Weight        uint16 // 10 to 1000
	WeightDevices []DiskLimit
	ReadBps       []DiskLimit
	WriteBps      []DiskLimit
	ReadIOPS      []DiskLimit
	WriteIOPS     []DiskLimit
}

// DiskLimit is a rate or weight for one host disk.
type DiskLimit struct {
	Major, Minor int64
	Value        uint64
}

// setting is one write to a control file. A setting is written as it is; value has no newline.
type setting struct {
	controller string
	file       string
	value      string
	optional   bool   // a kernel may lack the file
	either     string // another kernel's name of the file
}

// cpuWeight maps cpu.shares' range of 2 to 262144 to cpu.weight's of 1 to 10000. It is the straight
// line that runc and crun have had, so that a machine weighs as much as their containers with the
// same shares. Out of range is clamped, as the kernel does on v1.
func cpuWeight(shares uint64) uint64 {
	shares = min(max(shares, 2), 262144)
	return 1 + (shares-2)*9999/262142
}

// defaultPeriod is the kernel's cpu.cfs_period_us.
const defaultPeriod = 100000

// v1 gives the writes for cgroup v1 but for memory, whose order depends on what is set now. The
// period comes before the quota: the kernel checks a quota against the period that holds at that
// moment.
func (l Limits) v1() []setting {
	var out []setting
	add := func(controller, file, value string) {
		out = append(out, setting{controller: controller, file: file, value: value})
	}
	if l.CPUs != "" {
		add("cpuset", "cpuset.cpus", l.CPUs)
	}
	if l.Mems != "" {
		add("cpuset", "cpuset.mems", l.Mems)
	}
	if l.CPUShares != 0 {
		add("cpu", "cpu.shares", utoa(min(max(l.CPUShares, 2), 262144)))
	}
	if l.CPUPeriod != 0 {
		add("cpu", "cpu.cfs_period_us", utoa(l.CPUPeriod))
	}
	if l.CPUQuota != 0 {
		add("cpu", "cpu.cfs_quota_us", itoa(l.CPUQuota))
	}
	if l.Pids != 0 {
		add("pids", "pids.max", itoa(l.Pids))
	}
	if l.BlockIO.Weight != 0 {
		out = append(out, setting{
			controller: "blkio", file: "blkio.weight", either: "blkio.bfq.weight",
			value: utoa(uint64(l.BlockIO.Weight)),
		})
	}
	for _, d := range l.BlockIO.WeightDevices {
		out = append(out, setting{controller: "blkio", file: "blkio.weight_device", either: "blkio.bfq.weight_device", value: device(d)})
	}
	for _, t := range []struct {
		file string
		list []DiskLimit
	}{
		{"blkio.throttle.read_bps_device", l.BlockIO.ReadBps},
		{"blkio.throttle.write_bps_device", l.BlockIO.WriteBps},
		{"blkio.throttle.read_iops_device", l.BlockIO.ReadIOPS},
		{"blkio.throttle.write_iops_device", l.BlockIO.WriteIOPS},
	} {
		for _, d := range t.list {
			add("blkio", t.file, device(d))
		}
	}
	return out
}

// memoryV1 gives memory and memory with swap, -1 for no limit; ok is false when neither is set. v1
// has no limit of swap alone: SwapBytes is added to the memory, as its files count the sum.
func (l Limits) memoryV1() (memory, both int64, ok bool) {
	if l.MemoryBytes == 0 {
		return 0, 0, false
	}
	both = -1
	if l.SwapBytes != nil && *l.SwapBytes >= 0 {
		both = l.MemoryBytes + *l.SwapBytes
	}
	return l.MemoryBytes, both, true
}

// v2 gives the writes for cgroup v2. cpu.max is one file with quota and period, so one that is not
// given gets its default again: who changes one passes both.
func (l Limits) v2() []setting {
	var out []setting
	add := func(controller, file, value string) {
		out = append(out, setting{controller: controller, file: file, value: value})
	}
	if l.CPUs != "" {
		add("cpuset", "cpuset.cpus", l.CPUs)
	}
	if l.Mems != "" {
		add("cpuset", "cpuset.mems", l.Mems)
	}
	if l.CPUShares != 0 {
		add("cpu", "cpu.weight", utoa(cpuWeight(l.CPUShares)))
	}
	if l.CPUQuota != 0 || l.CPUPeriod != 0 {
		quota, period := "max", l.CPUPeriod
		if l.CPUQuota > 0 {
			quota = itoa(l.CPUQuota)
		}
		if period == 0 {
			period = defaultPeriod
		}
		add("cpu", "cpu.max", quota+" "+utoa(period))
	}
	if l.MemoryBytes != 0 {
		add("memory", "memory.max", itoa(l.MemoryBytes))
		// A machine without its file server is of no use, nor the reverse.
		out = append(out, setting{controller: "memory", file: "memory.oom.group", value: "1", optional: true})
	}
	if l.SwapBytes != nil {
		value := "max"
		if *l.SwapBytes >= 0 {
			value = itoa(*l.SwapBytes)
		}
		out = append(out, setting{controller: "memory", file: "memory.swap.max", value: value, optional: true})
	}
	if l.Pids != 0 {
		add("pids", "pids.max", itoa(l.Pids))
	}
	return append(out, l.ioV2()...)
}

// ioV2 gives those of the io controller. A rate of zero lifts the limit there, as it does on v1.
func (l Limits) ioV2() []setting {
	var out []setting
	add := func(s setting) { s.controller = "io"; out = append(out, s) }
	if w := l.BlockIO.Weight; w != 0 {
		add(setting{file: "io.bfq.weight", either: "io.weight", value: "default " + utoa(uint64(w))})
	}
	for _, d := range l.BlockIO.WeightDevices {
		add(setting{file: "io.bfq.weight", either: "io.weight", value: device(d)})
	}
	for _, t := range []struct {
		key  string
		list []DiskLimit
	}{{"rbps", l.BlockIO.ReadBps}, {"wbps", l.BlockIO.WriteBps}, {"riops", l.BlockIO.ReadIOPS}, {"wiops", l.BlockIO.WriteIOPS}} {
		for _, d := range t.list {
			value := "max" // as a rate of 0 on v1
			if d.Value != 0 {
				value = utoa(d.Value)
			}
			add(setting{file: "io.max", value: fmt.Sprintf("%d:%d %s=%s", d.Major, d.Minor, t.key, value)})
		}
	}
	return out
}

// device writes a rate or weight as both kinds of cgroup take it: MAJOR:MINOR VALUE.
func device(d DiskLimit) string {
	return fmt.Sprintf("%d:%d %d", d.Major, d.Minor, d.Value)
}

func itoa(n int64) string  { return strconv.FormatInt(n, 10) }
func utoa(n uint64) string { return strconv.FormatUint(n, 10) }
