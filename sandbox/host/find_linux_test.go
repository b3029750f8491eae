// SPDX-License-Identifier: Apache-2.0

package host

import (
	"errors"
	"os"
	"testing"
)

// TestResolve: a program without its x bit is not called missing.
func TestResolve(t *testing.T) {
	name := t.TempDir() + "/qemu"
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := resolve(name, "x"); !errors.Is(err, os.ErrPermission) {
		t.Errorf("resolve of a program that cannot be executed: %v", err)
	}
	if _, err := resolve(name+"none", "x"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("resolve of nothing: %v", err)
	}
}
