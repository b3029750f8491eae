// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/tests/testenv"
)

// TestShimOfOthersIsRefused has root find a shim in PATH that another user owns.
func TestShimOfOthersIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	name := filepath.Join(dir, shimProgram)
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if got, err := shimPath(); err != nil || got != name {
		t.Errorf("shimPath = %q, %v, want root's %s", got, err, name)
	}
	if err := os.Chown(name, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if got, err := shimPath(); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("shimPath = %q, %v, want a refusal of another's", got, err)
	}
}
