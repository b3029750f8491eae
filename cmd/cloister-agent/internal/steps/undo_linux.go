// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
)

// Undo unmounts all that is mounted below a container's folder and on its part
// of the share, and removes the folder. It succeeds when nothing is there, so it is fit for a
// container that was made by half.
func Undo(dir, id string) error {
	// All mounts must be gone first: RemoveAll would otherwise walk into a volume and delete the
	// files of the host.
	err := errors.Join(UnmountBelow(dir), UnmountBelow(filepath.Join(guestapi.Share, guestapi.ShareContainer(id))))
	if err != nil {
		return err // the folder's files may be others' than ours
	}
	if err := os.RemoveAll(dir); err != nil {
		return fmt.Errorf("remove container's folder: %w", err)
	}
	return nil
}

// MountVolume has the kernel mount a volume of the share where the agent sees it. Containers
// inherit that mount. Without it each container's runtime would have the kernel mount the volume
// anew, in a mount namespace and a superblock of its own. Opening it with O_DIRECTORY is what has
// the kernel mount it.
func MountVolume(name string) error {
	share, err := openRoot(guestapi.Share)
	if err != nil {
		return err
	}
	defer share.Close()
	f, err := openTree(share, guestapi.ShareVolume(name))
	if err != nil {
		return err
	}
	return f.Close()
}

// UnmountVolume unmounts a volume of the share.
func UnmountVolume(name string) error {
	return UnmountBelow(filepath.Join(guestapi.Share, guestapi.ShareVolume(name)))
}

// UnmountBelow unmounts everything at dir and below it. A mount in use is synced and detached. The
// kernel lists mounts in the order in which they were made, so going backwards takes the upper ones
// first. dir must have no links in it: the list has real paths.
func UnmountBelow(dir string) error {
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	var errs []error
	for _, m := range slices.Backward(mounts) { // those on top come later
		errs = append(errs, unmount(m.Mountpoint))
	}
	return errors.Join(errs...)
}

// unmount unmounts one mount point. A lazy unmount alone would leave dirty pages to nobody, hence
// the sync before it. UMOUNT_NOFOLLOW: the path may be the workload's by now.
func unmount(path string) error {
	err := unix.Unmount(path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		syncFS(path)
		err = unix.Unmount(path, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
	}
	if err != nil && !errors.Is(err, unix.EINVAL) { // EINVAL: went with the one below it
		return &os.PathError{Op: "unmount", Path: path, Err: err}
	}
	return nil
}

// syncFS writes one file system back, and not all of them, which could wait for other containers'
// disks.
func syncFS(path string) {
	f, err := os.Open(path)
	if err != nil {
		return
	}
	defer f.Close()
	_ = unix.Syncfs(int(f.Fd()))
}
