// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// TestPodOpen: what a kubelet has left open in its pod's cgroup, on v2 and on v1.
func TestPodOpen(t *testing.T) {
	const pod = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice"
	for _, tt := range []struct {
		name, pod   string
		unified     bool
		memory, cpu string // empty: there is no such file
		want        Open
	}{
		{"all limited", pod, true, "67108864", "10000 100000", Open{}},
		{"none limited", pod, true, "max", "max 100000", Open{Memory: true, CPU: true}},
		{"memory alone", "/kubepods/burstable/pod1", true, "67108864", "max 100000", Open{CPU: true}},
		{"no files", pod, true, "", "", Open{}},
		{"another engine's", "/pods/1", true, "max", "max 100000", Open{}},
		{"v1, all limited", pod, false, "67108864", "10000", Open{}},
		{"v1, none limited", pod, false, "9223372036854771712", "-1", Open{Memory: true, CPU: true}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			files := map[string]string{"memory.max": tt.memory, "cpu.max": tt.cpu}
			hosts := []hierarchy{{mount: root, unified: true, controllers: []string{"memory", "cpu"}}}
			if !tt.unified {
				files = map[string]string{"memory.limit_in_bytes": tt.memory, "cpu.cfs_quota_us": tt.cpu}
				hosts = []hierarchy{{mount: root, controllers: []string{"memory", "cpu"}}}
			}
			if err := os.MkdirAll(filepath.Join(root, tt.pod), 0o700); err != nil {
				t.Fatal(err)
			}
			for name, value := range files {
				if value == "" {
					continue
				}
				if err := os.WriteFile(filepath.Join(root, tt.pod, name), []byte(value+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			g := &Group{leaf: tt.pod + "/cloister-p", hosts: hosts, files: realFiles{}}
			if got, err := g.PodOpen(); err != nil || got != tt.want {
				t.Errorf("PodOpen = %+v, %v, want %+v", got, err, tt.want)
			}
		})
	}
}
