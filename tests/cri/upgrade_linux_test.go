// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"fmt"
	"os"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"cloister/tests/host"
)

// TestUpgrade puts containerd 2.4 in the place of Debian's 1.6 while a pod runs: it is the same
// pod, and ends as any other.
func TestUpgrade(t *testing.T) {
	b := setup{version: host.Distribution}.start(t, host.New(t))
	p := b.run(t, &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "old"}})
	id := p.start(t, "main", nil, "sh", "-c", "echo before; until [ -e /go ]; do sleep 0.1; done; echo after; exec sleep 1000")
	logged := func(lines ...string) string {
		return host.Await(host.Patience, func() string {
			data, err := os.ReadFile(b.status(t, id).GetLogPath())
			for _, line := range lines {
				if err != nil || !strings.Contains(string(data), " "+line+"\n") {
					return fmt.Sprintf("%q, %v, ", data, err)
				}
			}
			return ""
		})
	}
	// What a containerd has read and not yet written to the log goes with it, as under runc.
	if wrong := logged("before"); wrong != "" {
		t.Fatalf("the log has %swant a line from before", wrong)
	}
	b.Upgrade(t, setup{}.options(t, netConf(b.Place)))
	b.ready(t)
	step(t, "a pod of the older containerd", func(t *testing.T) {
		if got, code := b.exec(t, id, "touch /go; hostname"); code != 0 || got == "" {
			t.Errorf("exec = %q, exit %d", got, code)
		}
		status, err := b.cri.PodSandboxStatus(t.Context(), &runtimeapi.PodSandboxStatusRequest{PodSandboxId: p.id})
		if err != nil || status.GetStatus().GetState() != runtimeapi.PodSandboxState_SANDBOX_READY ||
			status.GetStatus().GetNetwork().GetIp() == "" {
			t.Errorf("PodSandboxStatus = %v, %v, want a ready pod with an address", status.GetStatus(), err)
		}
		stats, err := b.cri.ContainerStats(t.Context(), &runtimeapi.ContainerStatsRequest{ContainerId: id})
		if err != nil || stats.GetStats().GetMemory().GetUsageBytes().GetValue() == 0 {
			t.Errorf("ContainerStats = %v, %v, want memory", stats.GetStats(), err)
		}
		if wrong := logged("before", "after"); wrong != "" {
			t.Errorf("the log has %swant the lines from before and after", wrong)
		}
		second := p.start(t, "second", nil, "sleep", "1000")
		if got, code := b.exec(t, second, "echo here"); got != "here\n" || code != 0 {
			t.Errorf("exec in a container that the new containerd made = %q, exit %d", got, code)
		}
		p.remove(t)
		nothingLeft(t, b)
	})
}
