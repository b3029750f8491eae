// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

func TestRemoveTreeNeverCrossesAMount(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	volume, tree := filepath.Join(dir, "volume"), filepath.Join(dir, "tree")
	precious, empty := filepath.Join(volume, "precious"), filepath.Join(volume, "empty")
	for _, d := range []string{volume, filepath.Join(tree, "share/m/0"), filepath.Join(tree, "share/rootfs")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, data := range map[string]string{precious: "x", empty: "", filepath.Join(tree, "record"): "r", filepath.Join(tree, "share/m/1"): ""} {
		if err := os.WriteFile(name, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	at := filepath.Join(tree, "share/m/0")
	if err := unix.Mount(volume, at, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(tree); err == nil {
		t.Error("removeTree of a tree with a mount in it: no error")
	}
	for _, name := range []string{precious, empty} {
		if _, err := os.Stat(name); err != nil {
			t.Errorf("removeTree crossed into the mount: %v", err)
		}
	}
	if err := unmountBelow(tree); err != nil {
		t.Fatal(err)
	}
	if err := removeTree(tree); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(tree); err == nil {
		t.Error("the tree is still there")
	}
	if err := removeTree(tree); err != nil {
		t.Errorf("removeTree of nothing: %v", err)
	}
}
