// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/moby/sys/mount"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/sandbox/plan"
	"cloister/sys"
)

// mountRootfs makes an engine's mounts at target, one on top of the other. The
// mounts are as restricted on the host as they can be: the guest alone decides
// what a device node or a set-uid bit in them means. The label, unless zero, takes
// the place of the engine's; aside is a folder that the guest does not see.
func mountRootfs(mounts []plan.Mount, target, aside string, label labels.Label) error {
	for i, m := range mounts {
		at := target
		if m.Target != "" {
			at = filepath.Join(target, m.Target)
		}
		m.Options = withContext(m, label)
		if err := mountOne(m, at, aside); err != nil {
			return errors.Join(fmt.Errorf("rootfs mount %d: %w", i, err), unmountBelow(target))
		}
	}
	return nil
}

func mountOne(m plan.Mount, at, aside string) (err error) {
	m, ids, err := cutIDs(m)
	if err != nil {
		return err
	}
	ns, err := openUserNamespace(ids)
	if err != nil {
		return err
	}
	switch {
	case ns == nil:
		return mountAt(m.Source, at, m.Type, append(m.Options, "nodev", "nosuid"))
	case isBind(m):
		defer ns.Close()
		return bindMount(m.Source, at, bindFlags{recursive: slices.Contains(m.Options, "rbind"), readOnly: slices.Contains(m.Options, "ro"), owners: ns})
	}
	defer ns.Close()
	options, undo, err := mapLayers(m.Options, ns, aside)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo()) }()
	return mountAt(m.Source, at, m.Type, append(options, "nodev", "nosuid"))
}

// withContext are a mount's options with the label for all its files. A bind
// mount would take it without a word and do nothing.
func withContext(m plan.Mount, label labels.Label) []string {
	options := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return strings.HasPrefix(o, "context=") })
	if label.IsZero() || isBind(m) {
		return options
	}
	return append(options, `context="`+label.String()+`"`)
}

func isBind(m plan.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// mountAt is mount.Mount for any number of overlay layers: the kernel takes one
// page of options, so a longer list is made relative to the layers' common folder.
func mountAt(source, target, fsType string, options []string) error {
	data := strings.Join(options, ",")
	if len(data) < os.Getpagesize()-512 || fsType != "overlay" {
		return mount.Mount(source, target, fsType, data)
	}
	base, short := relativeLowers(options)
	if base == "" {
		return mount.Mount(source, target, fsType, data)
	}
	return sys.OnThread(func() error {
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // the working folder becomes this thread's own
			return err
		}
		if err := unix.Chdir(base); err != nil {
			return err
		}
		return mount.Mount(source, target, fsType, strings.Join(short, ","))
	})
}

// relativeLowers rewrites lowerdir= relative to the folder that all layers share.
func relativeLowers(options []string) (base string, out []string) {
	out = slices.Clone(options)
	for i, o := range out {
		list, ok := strings.CutPrefix(o, "lowerdir=")
		if !ok {
			continue
		}
		lowers := strings.Split(list, ":")
		base = filepath.Dir(lowers[0])
		for _, l := range lowers {
			for base != "/" && !strings.HasPrefix(l, base+"/") {
				base = filepath.Dir(base)
			}
		}
		if base == "/" {
			return "", options
		}
		for j, l := range lowers {
			lowers[j] = strings.TrimPrefix(l, base+"/")
		}
		out[i] = "lowerdir=" + strings.Join(lowers, ":")
	}
	return base, out
}

// bindFlags say how a host's folder or file is shown.
type bindFlags struct {
	recursive bool // with what is mounted below it
	readOnly  bool // nothing can be written through it, whatever the guest believes
	allOfIt   bool // readOnly holds for what is mounted below, too
	follow    bool // what the host mounts or unmounts below it later is seen

	owners      *os.File // the user namespace through whose map files' owners are shown; nil: as they are
	ownersBelow bool     // also of what is mounted below
}

// bindMount shows source, a file or a folder of the host, at target, which is made.
func bindMount(source, target string, b bindFlags) error {
	tree, err := cloneTree(source, b.recursive)
	if err != nil {
		return err
	}
	defer unix.Close(tree)
	var st unix.Stat_t
	if err := unix.Fstat(tree, &st); err != nil {
		return fmt.Errorf("stat %q: %w", source, err)
	}
	if err := makeMountPoint(target, st.Mode&unix.S_IFMT == unix.S_IFDIR); err != nil {
		return err
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID}
	if b.readOnly && b.allOfIt {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	attr.Propagation = unix.MS_PRIVATE
	if b.follow {
		attr.Propagation = unix.MS_SLAVE
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
		return fmt.Errorf("restrict %q: %w", source, err)
	}
	if b.readOnly {
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}); err != nil {
			return fmt.Errorf("restrict %q: %w", source, err)
		}
	}
	if err := mapOwners(tree, b.owners, b.ownersBelow); err != nil {
		return fmt.Errorf("owners of %q: %w", source, err)
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %q at %q: %w", source, target, err)
	}
	return nil
}

// mountsBelow says whether anything is mounted below dir, itself a mount.
func mountsBelow(dir string) (bool, error) {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return false, fmt.Errorf("list mounts below %q: %w", dir, err)
	}
	return len(infos) > 1, nil
}

func makeMountPoint(target string, dir bool) error {
	if dir {
		return os.MkdirAll(target, 0o755)
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	f, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	return f.Close()
}

// unmountBelow detaches every mount at or below dir, newest first. Detached, not
// unmounted: the file server may hold descriptors until the guest lets go.
func unmountBelow(dir string) error {
	infos, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		return fmt.Errorf("list mounts below %q: %w", dir, err)
	}
	var errs []error
	for _, m := range slices.Backward(infos) {
		if err := unix.Unmount(m.Mountpoint, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %q: %w", m.Mountpoint, err))
		}
	}
	return errors.Join(errs...)
}
