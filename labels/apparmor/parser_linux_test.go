// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/tests/testenv"
)

// TestParserOfOthersIsRefused has root find a compiler of profiles that another user owns. It is
// an error, and no reason to look for the next one.
func TestParserOfOthersIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	name := filepath.Join(dir, "apparmor_parser")
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if got, err := parser(); err != nil || got != name {
		t.Errorf("parser = %q, %v, want root's %s", got, err, name)
	}
	if err := os.Chown(name, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if got, err := parser(); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("parser = %q, %v, want a refusal of another's", got, err)
	}
}
