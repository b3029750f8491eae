// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/tests/testenv"
)

const inNamespace = "CLOISTER_TEST_NAMESPACE"

// private runs the test again in a mount namespace of its own.
func private(t *testing.T) bool {
	t.Helper()
	testenv.NeedRoot(t)
	if os.Getenv(inNamespace) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	return false
}

func TestMounts(t *testing.T) {
	if !private(t) {
		return
	}
	dir := filepath.Join(t.TempDir(), "c")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := WriteFile(dir, "src/file", []byte("data"), 0o644, os.Getuid(), os.Getgid()); err != nil {
		t.Fatal(err)
	}
	err := Do(t.Context(), dir, []*guestv1.MountStep{
		{Type: "tmpfs", Target: "disk", Options: []string{"size=1m"}},
		{Type: "mkdir", Target: "disk/upper", Options: []string{"mode=0750", "uid=7", "gid=8"}},
		{Type: "mkdir", Target: "disk/work"},
		{Type: "overlay", Target: "rootfs", Options: []string{"lowerdir=src", "upperdir=disk/upper", "workdir=disk/work"}},
		{Type: "bind", Source: "ctr:src", Target: "ro", Options: []string{"rbind", "ro"}},
		{Type: "bind", Source: "ctr:src/file", Target: "rootfs/deep/single", Options: []string{"ro", "nodev"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "disk/upper"), &st); err != nil || st.Mode&0o7777 != 0o750 || st.Uid != 7 || st.Gid != 8 {
		t.Errorf("upper has mode %o, owner %d:%d, %v", st.Mode, st.Uid, st.Gid, err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "rootfs/deep/single")); string(got) != "data" || err != nil {
		t.Errorf("single file: %q, %v", got, err)
	}
	for _, name := range []string{"ro/new", "rootfs/deep/single"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); !errors.Is(err, unix.EROFS) {
			t.Errorf("write %s = %v, want %v", name, err, unix.EROFS)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs/new"), nil, 0o600); err != nil {
		t.Error(err)
	}
	if err := Undo(dir, "c"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("folder is left: %v", err)
	}
	if left, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir)); err != nil || len(left) != 0 {
		t.Errorf("mounts are left: %v, %v", left, err)
	}
}

func TestUndoDetachesWhatIsInUse(t *testing.T) {
	if !private(t) {
		return
	}
	dir := t.TempDir()
	if err := Do(t.Context(), dir, []*guestv1.MountStep{{Type: "tmpfs", Target: "t"}, {Type: "tmpfs", Target: "t/inner"}}); err != nil {
		t.Fatal(err)
	}
	busy, err := os.OpenFile(filepath.Join(dir, "t/inner/busy"), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	if err := Undo(dir, "none"); err != nil {
		t.Error(err)
	}
}

func TestStepsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, s := range []*guestv1.MountStep{
		{Type: "nfs", Target: "a"},
		{Type: "", Target: "a"},
		{Type: "bind", Source: "/etc", Target: "a"},
		{Type: "bind", Source: "ctr:../x", Target: "a"},
		{Type: "bind", Source: "share:/x", Target: "a"},
		{Type: "bind", Source: "ctr:.", Target: "a", Options: []string{"size=1"}},
		{Type: "ext4", Source: "/dev/sda", Target: "a"},
		{Type: "ext4", Source: "lun:-1", Target: "a"},
		{Type: "erofs", Source: "lun:16384", Target: "a"},
		{Type: "overlay", Target: "a", Options: []string{"lowerdir=/"}},
		{Type: "tmpfs", Target: "../a"},
		{Type: "mkdir", Target: "a", Options: []string{"mode=9"}},
		{Type: "mkdir", Target: "/a"},
	} {
		if err := Do(t.Context(), dir, []*guestv1.MountStep{s}); err == nil {
			t.Errorf("%v was done", s)
		} else if !strings.Contains(err.Error(), "mount step 0") {
			t.Errorf("%v: the error does not name the step: %v", s, err)
		}
	}
}
