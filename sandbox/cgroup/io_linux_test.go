// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestDiskIO: what the host has counted, on v2 and on v1.
func TestDiskIO(t *testing.T) {
	want := []DiskIO{
		{Major: 8, Minor: 0, ReadBytes: 4096, WriteBytes: 8192, Reads: 1, Writes: 2},
		{Major: 253, Minor: 5, ReadBytes: 1, Reads: 1},
	}
	for _, tt := range []struct {
		name  string
		host  hierarchy
		files map[string]string
		want  []DiskIO
		bad   bool
	}{
		{"v2", hierarchy{unified: true, controllers: []string{"io"}}, map[string]string{
			"io.stat": "8:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n253:5 rbytes=1 wbytes=0 rios=1 wios=0\n",
		}, want, false},
		{"v1", hierarchy{controllers: []string{"blkio"}}, map[string]string{
			"blkio.throttle.io_service_bytes": "8:0 Read 4096\n8:0 Write 8192\n8:0 Sync 1\n8:0 Total 12288\n253:5 Read 1\nTotal 12289\n",
			"blkio.throttle.io_serviced":      "8:0 Read 1\n8:0 Write 2\n253:5 Read 1\nTotal 4\n",
		}, want, false},
		{"not counted", hierarchy{unified: true, controllers: []string{"io"}}, nil, nil, false},
		{"none yet", hierarchy{unified: true, controllers: []string{"io"}}, map[string]string{"io.stat": ""}, nil, false},
		{"no controller", hierarchy{controllers: []string{"cpu"}}, nil, nil, false},
		{"nonsense", hierarchy{unified: true, controllers: []string{"io"}}, map[string]string{"io.stat": "a:b rbytes=1\n"}, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.host.mount = t.TempDir()
			for name, text := range tt.files {
				if err := os.WriteFile(filepath.Join(tt.host.mount, name), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			g := &Group{leaf: "/", hosts: []hierarchy{tt.host}, files: realFiles{}}
			got, err := g.DiskIO()
			if (err != nil) != tt.bad {
				t.Fatalf("DiskIO: %v", err)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("DiskIO (-want +got):\n%s", diff)
			}
		})
	}
}
