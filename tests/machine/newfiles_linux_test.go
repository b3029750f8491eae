// SPDX-License-Identifier: Apache-2.0

package machine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/vmm"
	"cloister/vmm/qemu"
)

// TestNewFiles checks what the guest's kernel no longer asks the file server for: errors of files
// that have to be new, rights that a write takes away, attributes of a folder that has changed.
func TestNewFiles(t *testing.T) {
	t.Parallel()
	dir, server := share(t)
	for _, name := range []string{"exists", "private/exists"} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		write(t, filepath.Join(dir, name), "the host's")
	}
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "open"), 0o777), os.Chmod(filepath.Join(dir, "open"), 0o777),
		os.Symlink("nowhere", filepath.Join(dir, "link"))); err != nil {
		t.Fatal(err)
	}
	m := describe(t, vmm.MicroVM)
	m.Share = &vmm.Share{Tag: "cloister"}
	r := boot(t, m, qemu.Options{Share: server.Socket()})
	handOver(t, server)
	r.want("mounted", "mount cloister")

	for _, tt := range []struct{ name, user, want string }{
		{"exists", "0", "error: file exists"},
		{"link", "0", "error: file exists"},
		{"open", "0", "error: file exists"},
		{"private/exists", "1000", "error: file exists"},
		{"private/new", "1000", "error: permission denied"},
		{"none/new", "0", "error: no such file or directory"},
		{"exists/new", "0", "error: not a directory"},
		{"new", "0", "made"},
		{"open/new", "1000", "made"},
		{"open/new", "1000", "error: file exists"},
	} {
		r.want(tt.want, "as new %s %s", tt.name, tt.user)
	}
	r.want("the host's", "cat exists")
	r.want("small", "cat open/new")
	if _, err := os.Lstat(filepath.Join(dir, "nowhere")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the target of a link that was in the way: %v, want none", err)
	}
	write(t, filepath.Join(dir, "late"), "late") // nothing of the error below is kept
	r.want("error: file exists", "as new late 0")
	if err := os.Remove(filepath.Join(dir, "late")); err != nil {
		t.Fatal(err)
	}
	r.want("made", "as new late 0")

	writesTakeRightsAway(t, r, dir)
	got := r.ask("folder open/sub")
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "open"), &st); err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%o %d %d", st.Mode&0o7777, st.Nlink, st.Mtim.Nano()); got != want {
		t.Errorf("mode, links and time of a folder with a new one in it = %s, want %s", got, want)
	}
	r.end()
}

// writesTakeRightsAway: a write by a user takes set-uid bits and file capabilities away, one by
// root takes the capabilities alone.
func writesTakeRightsAway(t *testing.T, r *running, dir string) {
	t.Helper()
	capability := []byte("\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00") // cap_net_bind_service=ep
	for user, want := range map[string]os.FileMode{"1000": 0o777, "0": 0o777 | os.ModeSetuid} {
		path := filepath.Join(dir, "rights"+user)
		write(t, path, "x")
		if err := errors.Join(unix.Setxattr(path, "security.capability", capability, 0), os.Chmod(path, 0o777|os.ModeSetuid)); err != nil {
			t.Fatal(err)
		}
		r.want("written", "as append rights%s %s", user, user)
		if n, err := unix.Getxattr(path, "security.capability", nil); !errors.Is(err, unix.ENODATA) {
			t.Errorf("capabilities after a write by %s: %d bytes, %v, want none", user, n, err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("mode after a write by %s: %v, %v, want %v", user, info.Mode(), err, want)
		}
	}
}
