// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"fmt"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func lines(in []setting) []string {
	var out []string
	for _, s := range in {
		out = append(out, fmt.Sprintf("%s = %s", s.file, s.value))
	}
	return out
}

func TestLimits(t *testing.T) {
	none, some := int64(-1), int64(4096)
	io := BlockIO{
		Weight: 500, WeightDevices: []DiskLimit{{Major: 8, Minor: 0, Value: 200}},
		ReadBps: []DiskLimit{{Major: 8, Minor: 0, Value: 1000}}, WriteBps: []DiskLimit{{Major: 8, Minor: 0, Value: 0}},
		ReadIOPS: []DiskLimit{{Major: 8, Minor: 16, Value: 5}}, WriteIOPS: []DiskLimit{{Major: 8, Minor: 16, Value: 6}},
	}
	for _, tt := range []struct {
		name   string
		in     Limits
		v1, v2 []string
	}{
		{"none", Limits{}, nil, nil},
		{
			"cpu",
			Limits{CPUShares: 1024, CPUQuota: 150000, CPUPeriod: 100000, CPUs: "0-1", Mems: "0"},
			[]string{
				"cpuset.cpus = 0-1", "cpuset.mems = 0", "cpu.shares = 1024", "cpu.cfs_period_us = 100000",
				"cpu.cfs_quota_us = 150000",
			},
			[]string{"cpuset.cpus = 0-1", "cpuset.mems = 0", "cpu.weight = 39", "cpu.max = 150000 100000"},
		},
		{"no quota", Limits{CPUQuota: -1}, []string{"cpu.cfs_quota_us = -1"}, []string{"cpu.max = max 100000"}},
		{"least shares", Limits{CPUShares: 1}, []string{"cpu.shares = 2"}, []string{"cpu.weight = 1"}},
		{"most shares", Limits{CPUShares: 1 << 40}, []string{"cpu.shares = 262144"}, []string{"cpu.weight = 10000"}},
		{
			"memory",
			Limits{MemoryBytes: 1 << 20, SwapBytes: &some},
			nil,
			[]string{"memory.max = 1048576", "memory.oom.group = 1", "memory.swap.max = 4096"},
		},
		{"all swap", Limits{SwapBytes: &none}, nil, []string{"memory.swap.max = max"}},
		{
			"disks",
			Limits{BlockIO: io},
			[]string{
				"blkio.weight = 500", "blkio.weight_device = 8:0 200",
				"blkio.throttle.read_bps_device = 8:0 1000", "blkio.throttle.write_bps_device = 8:0 0",
				"blkio.throttle.read_iops_device = 8:16 5", "blkio.throttle.write_iops_device = 8:16 6",
			},
			[]string{
				"io.bfq.weight = default 500", "io.bfq.weight = 8:0 200", "io.max = 8:0 rbps=1000",
				"io.max = 8:0 wbps=max", "io.max = 8:16 riops=5", "io.max = 8:16 wiops=6",
			},
		},
	} {
		if d := cmp.Diff(tt.v1, lines(tt.in.v1())); d != "" {
			t.Errorf("%s: v1 (-want +got):\n%s", tt.name, d)
		}
		if d := cmp.Diff(tt.v2, lines(tt.in.v2())); d != "" {
			t.Errorf("%s: v2 (-want +got):\n%s", tt.name, d)
		}
	}
}
