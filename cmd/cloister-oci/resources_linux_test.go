// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	oldmetrics "github.com/containerd/cgroups/v3/cgroup1/stats"
	metrics "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

// TestStatsEvent has the same numbers of a guest, which are cgroup v2's, and of a plain container
// on a host with cgroup v1. Both name their type as the Task API does, without a host.
func TestStatsEvent(t *testing.T) {
	want := event{Type: "stats", ID: "one"}
	want.Data.CPU.Usage.Total, want.Data.CPU.Usage.Kernel, want.Data.CPU.Usage.User = 7000, 3000, 4000
	want.Data.Memory.Cache = 11
	want.Data.Memory.Usage, want.Data.Memory.Swap = usage{Limit: 100, Usage: 50}, usage{Limit: 30, Usage: 20}
	want.Data.Pids.Current, want.Data.Pids.Limit = 5, 9
	for name, m := range map[string]proto.Message{
		"cgroup v1": &oldmetrics.Metrics{
			CPU: &oldmetrics.CPUStat{Usage: &oldmetrics.CPUUsage{Total: 7000, Kernel: 3000, User: 4000}},
			Memory: &oldmetrics.MemoryStat{
				Cache: 11, Usage: &oldmetrics.MemoryEntry{Limit: 100, Usage: 50}, Swap: &oldmetrics.MemoryEntry{Limit: 30, Usage: 20},
			},
			Pids: &oldmetrics.PidsStat{Current: 5, Limit: 9},
		},
		"cgroup v2": &metrics.Metrics{
			CPU:    &metrics.CPUStat{UsageUsec: 7, SystemUsec: 3, UserUsec: 4},
			Memory: &metrics.MemoryStat{File: 11, UsageLimit: 100, Usage: 50, SwapLimit: 30, SwapUsage: 20},
			Pids:   &metrics.PidsStat{Current: 5, Limit: 9},
		},
	} {
		data, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		got, err := statsEvent("one", &anypb.Any{TypeUrl: string(m.ProtoReflect().Descriptor().FullName()), Value: data})
		if d := cmp.Diff(want, got); d != "" || err != nil {
			t.Errorf("%s: %v (-want +got):\n%s", name, err, d)
		}
	}
	other, err := anypb.New(&emptypb.Empty{})
	if err != nil {
		t.Fatal(err)
	}
	for name, stats := range map[string]*anypb.Any{"other numbers": other, "none": nil} {
		if got, err := statsEvent("one", stats); err == nil {
			t.Errorf("%s: %+v, want an error", name, got)
		}
	}
}
