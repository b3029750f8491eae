// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/oci"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/plan"
)

// openUserNamespace gives a user namespace with that map, for mounts; nil for none. No process stays in it: the one it is
// made with stops before its first instruction, as a debugger's does, and is killed.
func openUserNamespace(ids oci.IDMap) (*os.File, error) {
	if ids.IsZero() {
		return nil, nil //nolint:nilnil // no map, no namespace
	}
	runtime.LockOSThread() // who debugs is a thread
	defer runtime.UnlockOSThread()
	child, err := os.StartProcess("/proc/self/exe", []string{"cloister-ids"}, &os.ProcAttr{Sys: &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER, UidMappings: processIDs(ids.UIDs), GidMappings: processIDs(ids.GIDs), Ptrace: true, Pdeathsig: unix.SIGKILL,
	}})
	if err != nil {
		return nil, fmt.Errorf("user namespace for %v: the host's sysctl user.max_user_namespaces and kernel.yama.ptrace_scope (below 3) must allow it: %w", ids, err)
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(child.Pid) + "/ns/user")
	err = errors.Join(err, child.Kill())
	if _, waitErr := child.Wait(); waitErr != nil {
		err = errors.Join(err, waitErr)
	}
	if err != nil && ns != nil {
		err = errors.Join(err, ns.Close())
	}
	return ns, err
}

func processIDs(list []oci.IDRange) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(list))
	for i, r := range list {
		out[i] = syscall.SysProcIDMap{ContainerID: int(r.Container), HostID: int(r.Host), Size: int(r.Size)}
	}
	return out
}

// mapOwners has a mount that nobody sees yet show its files' owners through a user namespace's map; nil changes nothing.
func mapOwners(tree int, ids *os.File, below bool) error {
	if ids == nil {
		return nil
	}
	flags := uint(unix.AT_EMPTY_PATH)
	if below {
		flags |= unix.AT_RECURSIVE
	}
	err := unix.MountSetattr(tree, "", flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ids.Fd())})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("%w: its file system cannot be id-mapped by this kernel, or is mapped already: keep it on one that can (ext4, xfs, btrfs; tmpfs from Linux 6.3), or use no user namespace: %w", err, errdefs.ErrInvalidArgument)
	}
	return err
}

// mappable refuses a volume that cannot have its map, before there is a machine for it.
func mappable(source string, m oci.Mount) error {
	if m.IDs.IsZero() || m.Purpose.Copied() || m.Purpose == oci.SharedMemory || isSocket(source) {
		return nil
	}
	return tryOwners(source, m.IDs, m.Recursive, m.MapsBelow)
}

// mappableRootfs does the same for a root file system, as far as an engine asks for a map of it.
func mappableRootfs(mounts []Mount) error {
	for i, m := range mounts {
		m, ids, err := cutIDs(m)
		switch {
		case err != nil:
		case ids.IsZero():
			continue
		case isBind(m):
			err = tryOwners(m.Source, ids, false, false)
		case m.Type != "overlay" || slices.ContainsFunc(mounts, func(m Mount) bool { return m.Type != "overlay" && !isBind(m) }):
			err = fmt.Errorf("owners of disks cannot be mapped: use the overlayfs snapshotter, or have the image's files chowned: %w", errdefs.ErrNotImplemented)
		default:
			base, _ := relativeLowers(m.Options)
			err = tryOwners(base, ids, false, false)
		}
		if err != nil {
			return fmt.Errorf("mount %d (%s): uidmap=: %w", i, m.Type, err)
		}
	}
	return nil
}

func tryOwners(source string, ids oci.IDMap, recursive, below bool) error {
	ns, err := openUserNamespace(ids)
	if err != nil {
		return err
	}
	defer ns.Close()
	tree, err := cloneTree(source, recursive)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	return mapOwners(tree, ns, below)
}

// cloneTree is a copy of the mount at source that is not attached anywhere.
func cloneTree(source string, recursive bool) (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	if recursive {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, source, flags)
	if err != nil {
		return -1, fmt.Errorf("open %q: %w", source, err)
	}
	return tree, nil
}

// cutIDs takes an engine's map out of a root file system's mount: containerd's uidmap= and gidmap=.
func cutIDs(m plan.Mount) (plan.Mount, oci.IDMap, error) {
	var ids oci.IDMap
	var options []string
	for _, o := range m.Options {
		var err error
		switch key, value, _ := strings.Cut(o, "="); key {
		case "uidmap":
			ids.UIDs, err = parseIDs(value)
		case "gidmap":
			ids.GIDs, err = parseIDs(value)
		default:
			options = append(options, o)
		}
		if err != nil {
			return m, ids, fmt.Errorf("option %s: %w", o, err)
		}
	}
	if (ids.UIDs == nil) != (ids.GIDs == nil) {
		return m, ids, fmt.Errorf("%q: want both uidmap= and gidmap=, or none: %w", m.Options, errdefs.ErrInvalidArgument)
	}
	m.Options = options
	return m, ids, nil
}

func parseIDs(list string) ([]oci.IDRange, error) {
	ranges, err := guestapi.ParseRanges(list)
	return convert[oci.IDRange](ranges), err
}

// guestUsers is the guest's user namespace for a workload that asks for one.
func guestUsers(ids oci.IDMap) guestapi.UserNamespace {
	return guestapi.UserNamespace{UIDs: convert[guestapi.IDRange](ids.UIDs), GIDs: convert[guestapi.IDRange](ids.GIDs)}
}

// convert carries ranges between two rooms that say the same of them.
func convert[To, From oci.IDRange | guestapi.IDRange](list []From) []To {
	var out []To
	for _, r := range list {
		out = append(out, To(r))
	}
	return out
}

// mapLayers shows an overlay's layers with other owners, in a folder beside the share that the guest cannot see: an overlay
// itself has no map. The overlay holds what it needs of them; undo takes the folder away once it is mounted.
func mapLayers(options []string, ids *os.File, folder string) (mapped []string, undo func() error, err error) {
	base, short := relativeLowers(options)
	if base == "" {
		return nil, nil, fmt.Errorf("layers %q have no folder in common: %w", options, errdefs.ErrNotImplemented)
	}
	tree, err := cloneTree(base, false)
	if err != nil {
		return nil, nil, err
	}
	defer unix.Close(tree)
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}); err != nil {
		return nil, nil, fmt.Errorf("restrict %q: %w", base, err)
	}
	if err := mapOwners(tree, ids, false); err != nil {
		return nil, nil, fmt.Errorf("layers in %q: %w", base, err)
	}
	if folder, err = os.MkdirTemp(folder, "layers"); err != nil {
		return nil, nil, err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, folder, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return nil, nil, errors.Join(fmt.Errorf("mount layers at %q: %w", folder, err), os.Remove(folder))
	}
	for i, o := range short {
		if list, ok := strings.CutPrefix(o, "lowerdir="); ok {
			lowers := strings.Split(list, ":")
			for j, l := range lowers {
				lowers[j] = filepath.Join(folder, l)
			}
			short[i] = "lowerdir=" + strings.Join(lowers, ":")
		}
	}
	return short, func() error {
		return errors.Join(unix.Unmount(folder, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW), os.Remove(folder))
	}, nil
}
