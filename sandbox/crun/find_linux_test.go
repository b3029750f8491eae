// SPDX-License-Identifier: Apache-2.0

package crun

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/tests/testenv"
)

// TestRuntimeOfOthersIsRefused has root asked to start an OCI runtime that another user owns.
func TestRuntimeOfOthersIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	name := filepath.Join(t.TempDir(), "runtime")
	if err := os.WriteFile(name, nil, 0o755); err != nil {
		t.Fatal(err)
	}
	if got, err := Find(name); err != nil || got != name {
		t.Errorf("Find of root's: %q, %v", got, err)
	}
	if err := os.Chown(name, 65534, 65534); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(name); !errors.Is(err, errdefs.ErrPermissionDenied) || !strings.Contains(err.Error(), "chown root:root "+name) {
		t.Errorf("Find of another's: %v, want a refusal with the remedy", err)
	}
}
