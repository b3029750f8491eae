// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"strings"
	"testing"

	"cloister/oci"
)

// TestLocalOnly: an error that comes with a close must not get lost.
func TestLocalOnly(t *testing.T) {
	const ext4, nfs = 0xef53, 0x6969
	for _, tt := range []struct {
		name     string
		fs       int64
		kind     FileKind
		rules    Rules
		readOnly bool
		refused  bool
	}{
		{"network", nfs, Folder, Rules{LocalOnly: true}, false, true},
		{"network, one file", nfs, RegularFile, Rules{LocalOnly: true}, false, true},
		{"network, read-only", nfs, Folder, Rules{LocalOnly: true}, true, false},
		{"network, by default", nfs, Folder, Rules{}, false, false},
		{"socket on a network's", nfs, Socket, Rules{LocalOnly: true, Sockets: []string{"/s"}}, false, false},
		{"local", ext4, Folder, Rules{LocalOnly: true}, false, false},
	} {
		got := Source{Name: "/s", Real: "/s", Kind: tt.kind, FS: tt.fs}.problem(oci.Mount{ReadOnly: tt.readOnly}, tt.rules)
		if (got != "") != tt.refused || tt.refused && !strings.Contains(got, "0x6969") {
			t.Errorf("%s: problem = %q, want it refused: %t", tt.name, got, tt.refused)
		}
	}
}
