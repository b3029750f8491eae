// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// TestReadFileReadsRegularFilesAlone: an image has something else under the name of a file that the
// agent reads. An open of a FIFO would hold up the start of its container.
func TestReadFileReadsRegularFilesAlone(t *testing.T) {
	dir := t.TempDir()
	root := filepath.Join(dir, "root")
	in := func(name string) string { return filepath.Join(root, name) }
	if err := errors.Join(
		os.MkdirAll(in("etc"), 0o755), os.WriteFile(in("etc/passwd"), []byte("inside"), 0o600),
		os.WriteFile(filepath.Join(dir, "passwd"), []byte("outside"), 0o600),
		unix.Mkfifo(in("fifo"), 0o600), os.Mkdir(in("folder"), 0o755), os.Symlink("fifo", in("to-fifo")),
		os.WriteFile(in("large"), make([]byte, 11), 0o600), os.Symlink("/etc/passwd", in("absolute")),
		os.Symlink("../../passwd", in("up")),
	); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"etc/passwd": "inside", "absolute": "inside", // links begin at the container's root
		"fifo": "", "to-fifo": "", "folder": "", "large": "", "up": "", "none": "",
	} {
		got, err := ReadFile(root, name, 10)
		if string(got) != want || (err == nil) != (want != "") {
			t.Errorf("ReadFile(%s) = %q, %v, want %q", name, got, err, want)
		}
		if slices.Contains([]string{"fifo", "to-fifo", "folder", "large"}, name) && !errdefs.IsInvalidArgument(err) {
			t.Errorf("ReadFile(%s) = %v, want %v", name, err, errdefs.ErrInvalidArgument)
		}
	}
}
