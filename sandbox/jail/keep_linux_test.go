// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sys"
	"cloister/tests/testenv"
)

func TestRootErrorRefusesTheStart(t *testing.T) {
	allowed := Config{Disable: []Part{RootDir}}
	for _, c := range []Config{{}, allowed} {
		if err := c.RootError(nil); err != nil {
			t.Errorf("RootError(nil) = %v", err)
		}
		if err := c.RootError(unix.EPERM); !errors.Is(err, unix.EPERM) || errors.Is(err, ErrKeepsRoot) {
			t.Errorf("RootError(EPERM) = %v, want the error itself", err)
		}
	}
	replaced := fmt.Errorf("replace root: pivot_root: %w", unix.EINVAL)
	if err := (Config{}).RootError(replaced); errors.Is(err, ErrKeepsRoot) ||
		!strings.Contains(err.Error(), `name "root" in jail.disable`) {
		t.Errorf("RootError = %v, want a refusal with its remedy", err)
	}
	if err := allowed.RootError(replaced); !errors.Is(err, ErrKeepsRoot) {
		t.Errorf("RootError with the part disabled = %v, want %v", err, ErrKeepsRoot)
	}
}

// TestUnreplaceableRootIsRefused has the root directory of a host that runs from its initial
// ramdisk: the kernel's rootfs, which is below all mounts of a mount namespace. Nothing can replace
// it, so the start is refused unless the configuration allows it.
func TestUnreplaceableRootIsRefused(t *testing.T) {
	testenv.NeedRoot(t)
	folder := t.TempDir()
	var replaced error
	err := sys.OnThread(func() error {
		tree, err := toRootfs(folder)
		if err != nil {
			return err
		}
		replaced = replaceRoot(tree)
		return unix.Close(tree)
	})
	if err != nil {
		t.Fatal(err)
	}
	if !errors.Is(replaced, unix.EINVAL) || !strings.Contains(replaced.Error(), "pivot_root") {
		t.Errorf("replaceRoot = %v, want %v of pivot_root", replaced, unix.EINVAL)
	}
	if err := (Config{}).RootError(replaced); err == nil || errors.Is(err, ErrKeepsRoot) {
		t.Errorf("RootError = %v, want a start that is refused", err)
	}
	if err := (Config{Disable: []Part{RootDir}}).RootError(replaced); !errors.Is(err, ErrKeepsRoot) {
		t.Errorf("RootError with the part disabled = %v, want %v", err, ErrKeepsRoot)
	}
}

// toRootfs gives the calling thread a mount namespace of which only the rootfs is left, and returns
// a detached mount of folder.
func toRootfs(folder string) (tree int, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, err
	}
	ns, err := unix.Open("/proc/thread-self/ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	defer unix.Close(ns)
	if tree, err = unix.OpenTree(unix.AT_FDCWD, folder, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC); err != nil {
		return -1, err
	}
	if err := unix.Unmount("/", unix.MNT_DETACH); err != nil {
		return -1, errors.Join(fmt.Errorf("unmount the root: %w", err), unix.Close(tree))
	}
	if err := unix.Setns(ns, unix.CLONE_NEWNS); err != nil {
		return -1, errors.Join(fmt.Errorf("enter what is below: %w", err), unix.Close(tree))
	}
	return tree, nil
}
