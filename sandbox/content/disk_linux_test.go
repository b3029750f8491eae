// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/sandbox/plan"
	"cloister/tests/testenv"
)

// TestMkfsOfOthersIsRefused has root find a mkfs.ext4 that another user owns: it is not run, and no
// image is left that would pass for a whole one.
func TestMkfsOfOthersIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	name, ran := filepath.Join(dir, "mkfs.ext4"), filepath.Join(dir, "ran")
	if err := os.WriteFile(name, []byte("#!/bin/sh\n: >"+ran+"\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	if err := MakeFileSystem(t.Context(), plan.Disk{Path: first, MkfsBytes: 4096}); err != nil {
		t.Errorf("MakeFileSystem by root's program = %v", err)
	}
	if err := errors.Join(os.Remove(ran), os.Chown(name, 65534, 65534)); err != nil {
		t.Fatal(err)
	}
	if err := MakeFileSystem(t.Context(), plan.Disk{Path: second, MkfsBytes: 4096}); !errors.Is(err, errdefs.ErrPermissionDenied) {
		t.Errorf("MakeFileSystem by another's program = %v, want a refusal", err)
	}
	for _, path := range []string{ran, second} {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is there after a refusal: %v", path, err)
		}
	}
	if err := MakeFileSystem(t.Context(), plan.Disk{Path: first, MkfsBytes: 4096}); err != nil {
		t.Errorf("an image that is there = %v, want no program asked for", err)
	}
}
