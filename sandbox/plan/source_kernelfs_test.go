// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"
)

// TestKernelFileSystemsAreRefused: what the host's kernel makes up would read as empty in a guest.
func TestKernelFileSystemsAreRefused(t *testing.T) {
	for fs, want := range map[int64]string{0x9fa0: "is /proc", 0x62656572: "is /sys", 0x63677270: "cgroup", 0xef53: ""} {
		for _, kind := range []FileKind{Folder, RegularFile} {
			got := Source{Name: "/s", Real: "/s", Kind: kind, FS: fs}.volumeProblem(nil)
			if (got == "") != (want == "") || !strings.Contains(got, want) {
				t.Errorf("volumeProblem of a %s on %#x = %q, want %q", kind, fs, got, want)
			}
		}
	}
}
