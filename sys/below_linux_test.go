// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

func openFolder(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

func makeFile(t *testing.T, path, data string) {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(data), 0o600)); err != nil {
		t.Fatal(err)
	}
}

func TestOpenBelowFollowsNoLink(t *testing.T) {
	dir := t.TempDir()
	makeFile(t, filepath.Join(dir, "outside"), "secret")
	makeFile(t, filepath.Join(dir, "top/a/file"), "data")
	for link, to := range map[string]string{"top/last": "a/file", "top/middle": "a", "top/a/out": "../../outside", "top/absolute": "/etc"} {
		if err := os.Symlink(to, filepath.Join(dir, link)); err != nil {
			t.Fatal(err)
		}
	}
	top := openFolder(t, filepath.Join(dir, "top"))
	tests := []struct {
		name string
		want error
	}{
		{"a/file", nil},
		{"a/../a/file", nil},
		{"last", unix.ELOOP},
		{"middle/file", unix.ELOOP},
		{"a/out", unix.ELOOP},
		{"absolute/passwd", unix.ELOOP},
		{"../outside", unix.EXDEV},
		{"/etc/passwd", unix.EXDEV},
		{"missing", unix.ENOENT},
	}
	for _, tt := range tests {
		f, err := OpenBelow(top, tt.name, unix.O_RDONLY, 0)
		if !errors.Is(err, tt.want) {
			t.Errorf("OpenBelow(%q) = %v, want %v", tt.name, err, tt.want)
		}
		if err == nil {
			_ = f.Close()
		}
	}
	if _, err := OpenNoLinks(filepath.Join(dir, "top/middle/file"), unix.O_PATH); !errors.Is(err, unix.ELOOP) {
		t.Errorf("OpenNoLinks through a link = %v, want ELOOP", err)
	}
	if _, err := OpenNoLinks("top", unix.O_PATH); err == nil {
		t.Error("OpenNoLinks of a relative path: no error")
	}
}

func TestOpenBelowHereStaysOnItsMount(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	makeFile(t, filepath.Join(dir, "volume/file"), "x")
	makeFile(t, filepath.Join(dir, "top/m/hidden"), "x")
	if err := unix.Mount(filepath.Join(dir, "volume"), filepath.Join(dir, "top/m"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(filepath.Join(dir, "top/m"), unix.MNT_DETACH) })
	top := openFolder(t, filepath.Join(dir, "top"))
	f, err := OpenBelow(top, "m/file", unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if _, err := OpenBelowHere(top, "m/file", unix.O_PATH, 0); !errors.Is(err, unix.EXDEV) {
		t.Errorf("OpenBelowHere across a mount = %v, want EXDEV", err)
	}
}

func TestMkdirBelow(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink("/", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	makeFile(t, filepath.Join(dir, "file"), "")
	top := openFolder(t, dir)
	for _, name := range []string{"", ".", "..", "a/b", "a\x00"} {
		if _, err := MkdirBelow(top, name, 0o755); err == nil {
			t.Errorf("MkdirBelow(%q): no error", name)
		}
	}
	f, err := MkdirBelow(top, "a", 0o750)
	if err != nil {
		t.Fatal(err)
	}
	_ = f.Close()
	if _, err := MkdirBelow(top, "a", 0o755); !errors.Is(err, unix.EEXIST) {
		t.Errorf("MkdirBelow of what exists = %v, want EEXIST", err)
	}
}

func TestReopenOpensTheSameFile(t *testing.T) {
	dir := t.TempDir()
	makeFile(t, filepath.Join(dir, "file"), "first")
	f, err := OpenBelow(openFolder(t, dir), "file", unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := os.Rename(filepath.Join(dir, "file"), filepath.Join(dir, "moved")); err != nil {
		t.Fatal(err)
	}
	makeFile(t, filepath.Join(dir, "file"), "second")
	r, err := Reopen(f, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	data := make([]byte, 16)
	n, err := r.Read(data)
	if err != nil || string(data[:n]) != "first" {
		t.Errorf("read %q, %v, want first", data[:n], err)
	}
}

func TestRemoveTreeNeverCrossesAMount(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	volume, tree := filepath.Join(dir, "volume"), filepath.Join(dir, "tree")
	precious, empty := filepath.Join(volume, "precious"), filepath.Join(volume, "empty")
	for path, data := range map[string]string{
		precious: "x", empty: "", filepath.Join(tree, "record"): "r", filepath.Join(tree, "share/m/0/x"): "",
		filepath.Join(tree, "share/m/1"): "",
	} {
		makeFile(t, path, data)
	}
	if err := os.Symlink(volume, filepath.Join(tree, "link")); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(tree, "share/m/0")
	if err := unix.Mount(volume, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(at, unix.MNT_DETACH) })
	if err := RemoveTree(tree); !errors.Is(err, unix.EXDEV) {
		t.Errorf("RemoveTree of a tree with a mount in it = %v, want EXDEV", err)
	}
	for _, name := range []string{precious, empty} {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("RemoveTree crossed into the mount: %v", err)
		}
	}
	if _, err := os.Stat(filepath.Join(tree, "record")); err == nil {
		t.Error("RemoveTree left a file beside the mount")
	}
	if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time there is nothing
		if err := RemoveTree(tree); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(tree); err == nil {
		t.Error("the tree is still there")
	}
	if err := RemoveBelow(openFolder(t, dir), ".."); err == nil {
		t.Error("RemoveBelow(..): no error")
	}
}
