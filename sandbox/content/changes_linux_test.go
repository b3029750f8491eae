// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"
)

// instances counts this process's inotify instances.
func instances(t *testing.T) (n int) {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range all {
		name, err := os.Readlink("/proc/self/fd/" + fd.Name())
		if err != nil && !errors.Is(err, fs.ErrNotExist) { // the folder's own descriptor is closed
			t.Fatal(err)
		}
		if name == "anon_inode:inotify" {
			n++
		}
	}
	return n
}

// TestOneInotifyInstanceForASandbox: root has few instances (128 by default), and each sandbox of
// the host has one of them, however many containers and files it has.
func TestOneInotifyInstanceForASandbox(t *testing.T) {
	before := instances(t)
	changes, err := NewChanges(func() {})
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Close() // nothing is written
	for container := range 5 {
		var list []*Copied
		for _, name := range []string{"hosts", "hostname", "resolv.conf"} {
			dir := filepath.Join(t.TempDir(), strconv.Itoa(container))
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(dir, 0o755), os.WriteFile(path, nil, 0o600)); err != nil {
				t.Fatal(err)
			}
			file, err := os.OpenFile(path, unix.O_PATH, 0)
			if err != nil {
				t.Fatal(err)
			}
			folder, err := os.OpenFile(dir, unix.O_PATH, 0)
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, &Copied{file: file, folder: folder, name: name})
		}
		defer closeCopies(list)
		if err := changes.Follow(list); err != nil {
			t.Fatal(err)
		}
	}
	if n := instances(t) - before; n != 1 {
		t.Errorf("5 containers with 3 copied files each have %d inotify instances, want 1", n)
	}
}
