// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestRootResolve(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"usr/lib/libx.so.1.0": "x"})
	for link, target := range map[string]string{
		"lib": "usr/lib", "usr/lib/libx.so.1": "/lib/libx.so.1.0", "up": "../../../../usr", "loop": "loop",
	} {
		if err := os.Symlink(target, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	for in, want := range map[string]string{
		"/lib/libx.so.1": "/usr/lib/libx.so.1.0", "/up/lib": "/usr/lib", "/usr/../lib": "/usr/lib", "/": "/",
	} {
		if got, err := root(dir).resolve(in); got != want || err != nil {
			t.Errorf("resolve(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	if _, err := root(dir).resolve("/lib/absent"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("resolve(absent) = %v, want ErrNotExist", err)
	}
	if _, err := root(dir).resolve("/loop"); err == nil {
		t.Error("resolve(loop) gave no error")
	}
}
