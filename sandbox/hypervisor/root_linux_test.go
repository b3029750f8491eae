// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// TestShownFilesLeadNowhere: whoever opens names below QEMU's root directory is not led out of it
// by links that the guest made, and can still read them.
func TestShownFilesLeadNowhere(t *testing.T) {
	testenv.NeedRoot(t)
	shown, outside := t.TempDir(), t.TempDir()
	if err := errors.Join(
		os.WriteFile(filepath.Join(outside, "file"), []byte("the host's"), 0o600),
		os.WriteFile(filepath.Join(shown, "file"), []byte("the container's"), 0o600),
		os.Symlink(outside, filepath.Join(shown, "absolute")),
		os.Symlink("/proc/1/root"+outside, filepath.Join(shown, "process")),
		os.Symlink("../../../../../../.."+outside, filepath.Join(shown, "up")),
		os.Symlink("file", filepath.Join(shown, "own")),
	); err != nil {
		t.Fatal(err)
	}
	top, err := os.OpenFile(shown, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer top.Close() // O_PATH
	tree, err := copyOf(top, false)
	if errors.Is(err, unix.EPERM) {
		testenv.Need(t, testenv.Root, "no mounts: "+err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close() // O_PATH
	root := fmt.Sprintf("/proc/self/fd/%d/", tree.Fd())
	for _, name := range []string{"absolute/file", "process/file", "up/file", "own"} {
		if data, err := os.ReadFile(root + name); !errors.Is(err, unix.ELOOP) {
			t.Errorf("reading %s = %q, %v, want %v", name, data, err, unix.ELOOP)
		}
		if err := os.WriteFile(root+name, []byte("changed"), 0o600); !errors.Is(err, unix.ELOOP) {
			t.Errorf("writing %s = %v, want %v", name, err, unix.ELOOP)
		}
	}
	// The top of a detached mount is its own parent.
	if data, err := os.ReadFile(root + "../../file"); err != nil || string(data) != "the container's" {
		t.Errorf("the file by way of its root's parents = %q, %v", data, err)
	}
	if to, err := os.Readlink(root + "absolute"); err != nil || to != outside {
		t.Errorf("Readlink = %q, %v, want %q", to, err, outside)
	}
}
