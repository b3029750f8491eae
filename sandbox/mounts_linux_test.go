// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/sandbox/plan"
	"cloister/tests/testenv"
)

func TestWithContext(t *testing.T) {
	label, err := labels.Parse("system_u:object_r:cloister_rootfs_t:s0:c1,c2")
	if err != nil {
		t.Fatal(err)
	}
	overlay := plan.Mount{Type: "overlay", Options: []string{"lowerdir=/l", `context="system_u:object_r:container_file_t:s0:c7,c9"`}}
	bind := plan.Mount{Type: "bind", Options: []string{"rbind", "rw"}}
	for _, test := range []struct {
		name  string
		mount plan.Mount
		label labels.Label
		want  []string
	}{
		{"the engine's label is replaced", overlay, label, []string{"lowerdir=/l", `context="system_u:object_r:cloister_rootfs_t:s0:c1,c2"`}},
		{"and taken away where there are no labels", overlay, labels.Label{}, []string{"lowerdir=/l"}},
		{"a bind mount takes none", bind, label, []string{"rbind", "rw"}},
	} {
		if diff := cmp.Diff(test.want, withContext(test.mount, test.label)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
}

func TestOverlayOfManyLayers(t *testing.T) {
	testenv.NeedRoot(t)
	testenv.NeedOverlay(t)
	dir := t.TempDir()
	var lowers []string
	for i := range 100 {
		lower := filepath.Join(dir, strings.Repeat("long", 10), fmt.Sprint(i), "fs")
		if err := os.MkdirAll(lower, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(lower, fmt.Sprintf("from-%d", i)), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		lowers = append(lowers, lower)
	}
	target := filepath.Join(dir, "rootfs")
	if err := os.Mkdir(target, 0o755); err != nil {
		t.Fatal(err)
	}
	mounts := []plan.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(lowers, ":")}}}
	if err := mountRootfs(mounts, target, dir, labels.Label{}); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unmountBelow(target); err != nil {
			t.Error(err)
		}
	}()
	if files, err := os.ReadDir(target); err != nil || len(files) != 100 {
		t.Errorf("rootfs has %d files, %v, want one of each of 100 layers", len(files), err)
	}
}

func TestBindMount(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	source, below := filepath.Join(dir, "source"), filepath.Join(dir, "source", "below")
	if err := os.MkdirAll(below, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", below, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(below, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	single := filepath.Join(source, "file")
	if err := os.WriteFile(single, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	shared := filepath.Join(dir, "shared")
	defer func() {
		if err := unmountBelow(shared); err != nil {
			t.Error(err)
		}
	}()

	folder := filepath.Join(shared, "folder")
	if err := bindMount(source, folder, bindFlags{recursive: true, readOnly: true, allOfIt: true}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"new", "below/new"} {
		if err := os.WriteFile(filepath.Join(folder, name), nil, 0o600); err == nil {
			t.Errorf("wrote %s through a read-only bind mount", name)
		}
	}
	itself := filepath.Join(shared, "itself")
	if err := bindMount(source, itself, bindFlags{recursive: true, readOnly: true}); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(itself, "new"), nil, 0o600); err == nil {
		t.Error("wrote through a read-only bind mount")
	}
	if err := os.WriteFile(filepath.Join(itself, "below", "new"), nil, 0o600); err != nil {
		t.Errorf("what is mounted below a bind mount that is read-only itself: %v", err)
	}
	for name, want := range map[string]bool{folder: true, itself: true, below: false} {
		if got, err := mountsBelow(name); got != want || err != nil {
			t.Errorf("mountsBelow(%s) = %t, %v, want %t", name, got, err, want)
		}
	}
	file := filepath.Join(shared, "m", "0")
	if err := bindMount(single, file, bindFlags{}); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(file); err != nil || string(data) != "x" {
		t.Errorf("file = %q, %v, want x", data, err)
	}
	if err := bindMount(filepath.Join(dir, "absent"), filepath.Join(shared, "absent"), bindFlags{}); err == nil {
		t.Error("bind mount of what is not there: no error")
	}
}
