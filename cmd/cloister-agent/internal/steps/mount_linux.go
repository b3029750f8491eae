// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sandbox/guestapi"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sys"
)

// The prefixes of a source, see MountStep in the contract.
const (
	fromShare     = "share:"
	fromLUN       = "lun:"
	fromContainer = "ctr:"
)

// Do makes the mounts of a container in order. On an error those made so far
// stay: Undo takes them away. The order is the host's: a later mount may lie on an earlier one. The
// number in an error is the step's place in the request.
func Do(ctx context.Context, dir string, list []*guestv1.MountStep) error {
	root, err := openRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	for i, s := range list {
		if err := do(ctx, root, s); err != nil {
			return fmt.Errorf("mount step %d: %s %s on %s: %w", i, s.GetType(), s.GetSource(), s.GetTarget(), err)
		}
	}
	return nil
}

// do makes one step. A type that is not in the list is refused: a new type of mount would be code
// of the guest's kernel that nobody has thought about.
func do(ctx context.Context, root *os.File, s *guestv1.MountStep) error {
	switch s.GetType() {
	case "mkdir":
		return makeFolder(root, s)
	case "bind":
		return bind(root, s)
	case "tmpfs", "mqueue":
		return mountAt(root, s, s.GetType(), s.GetOptions())
	case "overlay":
		options, err := overlayOptions(s.GetOptions())
		if err != nil {
			return err
		}
		return mountAt(root, s, "overlay", options)
	// Read-only disks are enforced by the host; the options here only keep the guest's kernel from
	// trying to write.
	case "ext4", "erofs", "xfs", "btrfs", "squashfs":
		lun, ok := strings.CutPrefix(s.GetSource(), fromLUN)
		n, err := strconv.ParseUint(lun, 10, 14) // virtio-scsi has 16384 LUNs
		// A source other than a disk would let the host name any device of the guest.
		if !ok || err != nil {
			return fmt.Errorf("source %q is not a disk: %w", s.GetSource(), errdefs.ErrInvalidArgument)
		}
		device, err := waitDisk(ctx, int(n))
		if err != nil {
			return err
		}
		return mountAt(root, s, device, s.GetOptions())
	}
	return fmt.Errorf("mount type %q: %w", s.GetType(), errdefs.ErrInvalidArgument)
}

// makeFolder sets the mode once more after mkdir: an existing folder has its own, and the umask may
// have cut the new one.
func makeFolder(root *os.File, s *guestv1.MountStep) error {
	mode, uid, gid, err := Owner(s.GetOptions(), folderMode)
	if err != nil {
		return err
	}
	f, err := folderIn(root, s.GetTarget(), mode)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.Fchownat(int(f.Fd()), "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
		return fmt.Errorf("chown: %w", err)
	}
	// By /proc and not by the descriptor: fchmod refuses one that was opened with O_PATH.
	if err := unix.Chmod(fdPath(f), mode); err != nil {
		return fmt.Errorf("chmod: %w", err)
	}
	return nil
}

// Owner reads mode=, uid= and gid= of a step that makes something: mode unless they say another,
// and -1 for an owner that stays. An option that it does not know is errdefs.ErrInvalidArgument:
// these steps make something, and mount's options mean nothing to them.
func Owner(options []string, mode uint32) (_ uint32, uid, gid int, err error) {
	wanted, uid, gid := uint64(mode), -1, -1
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		switch key {
		case "mode":
			wanted, err = strconv.ParseUint(value, 8, 12)
		case "uid":
			uid, err = strconv.Atoi(value)
		case "gid":
			gid, err = strconv.Atoi(value)
		default:
			err = errdefs.ErrInvalidArgument
		}
		if err != nil {
			return 0, 0, 0, fmt.Errorf("option %q: %w", o, err)
		}
	}
	return uint32(wanted), uid, gid, nil
}

// openSource opens a file or folder of the share or of the container. The caller closes it. A
// source is resolved below the share or the container's folder and nowhere else.
func openSource(root *os.File, source string) (*os.File, error) {
	if rel, ok := strings.CutPrefix(source, fromContainer); ok {
		return openTree(root, rel)
	}
	rel, ok := strings.CutPrefix(source, fromShare)
	if !ok {
		return nil, fmt.Errorf("source %q: %w", source, errdefs.ErrInvalidArgument)
	}
	share, err := openRoot(guestapi.Share)
	if err != nil {
		return nil, err
	}
	defer share.Close()
	return openTree(share, rel)
}

// openTree opens a path to be cloned. O_DIRECTORY comes first: it makes the
// kernel mount the host's mount that may sit there (a virtiofs submount). A submount is mounted
// when somebody walks into it with O_DIRECTORY; a plain O_PATH would give the empty folder below,
// and the container would see that.
func openTree(root *os.File, rel string) (*os.File, error) {
	rel, err := clean(rel)
	if err != nil {
		return nil, err
	}
	f, err := openIn(root, rel, unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return openIn(root, rel, unix.O_PATH, 0)
	}
	return f, err
}

// bind clones the source's mount and attaches it. Source and target are descriptors throughout, so
// names that change in between have no effect.
func bind(root *os.File, s *guestv1.MountStep) error {
	p := parseOptions(s.GetOptions())
	// What is no flag would be data for a file system, and a bind has none.
	if len(p.data) > 0 {
		return fmt.Errorf("option %q of a bind: %w", p.data[0], errdefs.ErrInvalidArgument)
	}
	source, err := openSource(root, s.GetSource())
	if err != nil {
		return err
	}
	defer source.Close()
	info, err := source.Stat()
	if err != nil {
		return err
	}
	// The target must be of the same kind as the source, or the kernel refuses the mount.
	target, err := openTarget(root, s.GetTarget(), info.IsDir())
	if err != nil {
		return err
	}
	defer target.Close()
	return cloneOnto(source, target, p)
}

// openTarget makes the mount point where it is missing.
func openTarget(root *os.File, rel string, folder bool) (*os.File, error) {
	if folder {
		return folderIn(root, rel, folderMode)
	}
	return fileIn(root, rel)
}

// cloneOnto sets the attributes while the clone is attached nowhere: with mount(2), a bind is
// writable for a moment before it is remounted read-only.
func cloneOnto(source, target *os.File, p parsed) error {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC | unix.AT_EMPTY_PATH)
	at := uint(unix.AT_EMPTY_PATH)
	// With a recursive clone the attributes go to every mount in it; otherwise a mount below would
	// stay writable.
	if p.recursive {
		flags |= unix.AT_RECURSIVE
		at |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(int(source.Fd()), "", flags)
	if err != nil {
		return fmt.Errorf("clone mount: %w", err)
	}
	defer unix.Close(tree)
	// Propagation is part of mount_setattr's argument; zero leaves it as it is.
	p.attr.Propagation = p.propagates
	if p.attr != (unix.MountAttr{}) {
		if err := unix.MountSetattr(tree, "", at, &p.attr); err != nil {
			return fmt.Errorf("set mount's attributes: %w", err)
		}
	}
	if err := unix.MoveMount(tree, "", int(target.Fd()), "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH); err != nil {
		return fmt.Errorf("move mount: %w", err)
	}
	return nil
}

// overlayOptions checks those options that are paths: relative to the
// container's folder, in which the mount is made. A colon separates layers; names with a colon or
// comma are the host's to avoid.
func overlayOptions(options []string) ([]string, error) {
	for _, o := range options {
		key, value, ok := strings.Cut(o, "=")
		if !ok || (key != "lowerdir" && key != "upperdir" && key != "workdir") {
			continue
		}
		for rel := range strings.SplitSeq(value, ":") {
			if _, err := clean(rel); err != nil {
				return nil, fmt.Errorf("option %s: %w", key, err)
			}
		}
	}
	return options, nil
}

// mountAt mounts a file system on a folder, which it makes.
func mountAt(root *os.File, s *guestv1.MountStep, source string, options []string) error {
	p := parseOptions(options)
	target, err := folderIn(root, s.GetTarget(), folderMode)
	if err != nil {
		return err
	}
	defer target.Close()
	return mountIn(root, source, target, s.GetType(), p)
}

// mountIn mounts with the container's folder as the working one: a page holds
// all of mount(2)'s data, and many layers' absolute paths do not fit. The
// thread has a working folder of its own. The thread is not used again: its working folder would be
// another one than the agent's.
func mountIn(root *os.File, source string, target *os.File, fstype string, p parsed) error {
	return sys.OnThread(func() error {
		// Threads of a process share the working folder until this call.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Fchdir(int(root.Fd())); err != nil {
			return err
		}
		// The target is a descriptor's path: mount(2) would resolve a name again.
		return unix.Mount(source, fdPath(target), fstype, p.mount, strings.Join(p.data, ","))
	})
}
