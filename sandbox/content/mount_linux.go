// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// clone gives a copy of the mount at a file, or at a folder, that is mounted nowhere; recursive
// says with those below it. The copy has its own flags, so that it can be restricted before anybody
// sees it, and the original stays as it is. Unless it is mounted, it goes with the descriptor.
func clone(f *os.File, recursive bool) (*os.File, error) {
	// os.File closes its descriptor when it is collected, which may be before a call that has only
	// the number.
	defer runtime.KeepAlive(f)
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	fd, err := unix.OpenTree(int(f.Fd()), "", flags)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// setAttr changes a mount, and with recursive those below it. The kernel changes all of the mounts
// or none.
func setAttr(tree *os.File, recursive bool, attr *unix.MountAttr) error {
	defer runtime.KeepAlive(tree)
	flags := uint(unix.AT_EMPTY_PATH)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	return unix.MountSetattr(int(tree.Fd()), "", flags, attr)
}

// moveOnto mounts a tree that is mounted nowhere on an open file or folder. No path is resolved:
// both ends are descriptors.
func moveOnto(tree, point *os.File) error {
	defer runtime.KeepAlive(tree)
	defer runtime.KeepAlive(point)
	err := unix.MoveMount(int(tree.Fd()), "", int(point.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("mount %q at %q: %w", tree.Name(), point.Name(), err)
	}
	return nil
}

// moveTo is moveOnto for a folder that nobody but root can change. The last name must be no link;
// those before it are root's.
func moveTo(tree *os.File, folder string) error {
	point, err := os.OpenFile(folder, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer point.Close() // O_PATH
	return moveOnto(tree, point)
}

// detach unmounts the mount whose top is open, with all that is mounted below it. One that is
// unmounted already is no error. MNT_DETACH: the mount leaves the tree at once, and goes for good
// when the file server closes what it has open in it. A wait for that would let a guest hold up the
// removal.
func detach(top *os.File) error {
	defer runtime.KeepAlive(top)
	// The link of procfs leads to the very mount that is open. EINVAL: it is mounted nowhere any
	// more.
	err := unix.Unmount(fdPath(top), unix.MNT_DETACH)
	if err != nil && !errors.Is(err, unix.EINVAL) {
		return &os.PathError{Op: "unmount", Path: top.Name(), Err: err}
	}
	return nil
}

// mountID tells one mount from another. Device and inode do not: a bind mount has those of what it
// shows.
func mountID(f *os.File) (uint64, error) {
	defer runtime.KeepAlive(f)
	var st unix.Statx_t
	if err := unix.Statx(int(f.Fd()), "", unix.AT_EMPTY_PATH, unix.STATX_MNT_ID, &st); err != nil {
		return 0, &os.PathError{Op: "statx", Path: f.Name(), Err: err}
	}
	return st.Mnt_id, nil
}

// fdPath names an open file for calls that take no descriptor. The name leads to the file, not to
// what has its path.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }
