// SPDX-License-Identifier: Apache-2.0

package flock

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestTake(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	first, err := Take(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := Take(ended, path); !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), path) {
		t.Errorf("a held lock: %v, want canceled and the file's name", err)
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	// Also after the one that gave up waiting: its lock is given straight back.
	second, err := Take(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Error(err)
	}
	if _, err := Take(t.Context(), filepath.Join(path, "none")); err == nil {
		t.Error("a lock below a file was taken")
	}
}
