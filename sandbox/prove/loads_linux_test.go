// SPDX-License-Identifier: Apache-2.0

package prove

import (
	"os"
	"path/filepath"
	"testing"
)

// TestCountedLoads: where the kernel counts the kernels that may be loaded, none is tried.
func TestCountedLoads(t *testing.T) {
	for text, want := range map[string]bool{"-1\n": false, "1\n": true, "0\n": true} {
		file := filepath.Join(t.TempDir(), "limit")
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := countedLoads(file); err != nil || got != want {
			t.Errorf("countedLoads of %q = %t, %v, want %t", text, got, err, want)
		}
	}
	if got, err := countedLoads(filepath.Join(t.TempDir(), "none")); err != nil || got {
		t.Errorf("countedLoads of a kernel without the limit = %t, %v, want false", got, err)
	}
}
