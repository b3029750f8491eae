// SPDX-License-Identifier: Apache-2.0

package content

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mount"
	"golang.org/x/sys/unix"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/guestapi"
	"cloister/sandbox/plan"
	"cloister/sys"
)

// BlockDevices says which sources of an engine's mounts are block devices of the host. A source
// that is missing or no device is left out: what it is instead is found when it is mounted.
func BlockDevices(mounts []plan.Mount) map[string]bool {
	out := map[string]bool{}
	for _, m := range mounts {
		var st unix.Stat_t
		if unix.Stat(m.Source, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK {
			out[m.Source] = true
		}
	}
	return out
}

// OpenRootfs opens what is bound as the root file system: a folder that the engine has mounted, or
// a snapshot's. It has no effect where a mount makes the root file system, or disks do. A missing
// folder is errdefs.ErrNotFound.
func (f *Files) OpenRootfs(c Container, r plan.Rootfs) error {
	name := ""
	switch {
	case len(r.Disks) > 0:
		return nil
	// Docker and CRI-O mount the root file system themselves, and send no mounts.
	case len(r.Host) == 0:
		name = c.absolute(c.Workload.Rootfs.Path)
	default:
		if top := r.Host[len(r.Host)-1]; top.Target == "" && isBind(top) {
			name = top.Source
		}
	}
	if name == "" {
		return nil
	}
	file, err := os.OpenFile(name, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return fmt.Errorf("root.path %q: no rootfs mounts were given and there is no folder there: %w: %w", name, err, errdefs.ErrNotFound)
	}
	f.rootfs = file
	return nil
}

// Rootfs is what is bound as root file system, nil where a mount makes it. It stays the Files'.
func (f *Files) Rootfs() *os.File { return f.rootfs }

// AddContainer makes a container's folder in the share. 0711: the file server acts for users of the
// guest that are not root, who must pass through it and need not list it.
func (s *Share) AddContainer(id string) error { return s.addFolder(guestapi.ShareContainer(id), 0o711) }

// RemoveContainer takes a container's folder away, with the root file system in it. What was never
// there is no error. The order is from the inside out. It may be repeated after an error.
func (s *Share) RemoveContainer(id string) error {
	return errors.Join(s.remove(guestapi.ShareRootfs(id)), s.remove(guestapi.ShareContainer(id)))
}

// MountRootfs makes a container's root file system visible in the share, and opens its top. The
// label, unless zero, takes the place of the engine's on what is mounted. RemoveContainer takes it
// away, also after an error. The descriptor is the caller's. QEMU's root is made from it, and no
// name is resolved for that again.
func (s *Share) MountRootfs(id string, r plan.Rootfs, files *Files, label labels.Label) (*os.File, error) {
	rel := guestapi.ShareRootfs(id)
	// The engine's mount is copied, not bound by name, and nothing that the engine mounts there
	// later appears.
	if len(r.Host) == 0 {
		tree, err := clone(files.rootfs, true)
		if err != nil {
			return nil, err
		}
		defer tree.Close() // the mount stays
		if err := restrict(tree, plan.Volume{}); err != nil {
			return nil, err
		}
		if err := s.attach(tree, rel, true); err != nil {
			return nil, err
		}
		return s.open(rel)
	}
	point, err := s.addMountPoint(rel, true)
	if err != nil {
		return nil, err
	}
	_ = point.Close() // O_PATH
	// Each mount covers the one before: an overlay may need the layers that the earlier ones have
	// mounted.
	for i, m := range r.Host {
		m.Options = WithContext(m, label)
		var source *os.File // nil: opened by its name
		if i == len(r.Host)-1 {
			source = files.rootfs
		}
		if err := s.mountOne(m, rel, source); err != nil {
			return nil, fmt.Errorf("rootfs mount %d: %w", i, err)
		}
	}
	return s.open(rel)
}

// mountOne makes one of an engine's mounts on top of what is at a place of the share. It is as
// restricted on the host as it can be: the guest alone decides what a device node or a set-uid bit
// in it means. The place is opened in the read-only view, so a link in an image cannot lead the
// mount out of the root file system (OpenBelow refuses links).
func (s *Share) mountOne(m plan.Mount, rel string, source *os.File) error {
	m, ids, err := plan.CutIDs(m)
	if err != nil {
		return err
	}
	at, err := s.open(rel)
	if err != nil {
		return err
	}
	defer at.Close() // O_PATH
	if m.Target != "" {
		below, err := sys.OpenBelow(at, strings.TrimPrefix(m.Target, "/"), unix.O_PATH, 0)
		if err != nil {
			return fmt.Errorf("target in the root file system: %w", err)
		}
		defer below.Close() // O_PATH
		at = below
	}
	if isBind(m) {
		return bind(m, source, at, ids)
	}
	options := append(slices.Clone(m.Options), "nodev", "nosuid")
	if ids.IsZero() {
		return mountAt(m.Source, fdPath(at), m.Type, options)
	}
	mapped, undo, err := s.mapLayers(options, ids)
	if err != nil {
		return err
	}
	return errors.Join(mountAt(m.Source, fdPath(at), m.Type, mapped), undo())
}

// bind makes an engine's bind mount. nodev and nosuid are in restrict.
func bind(m plan.Mount, source, at *os.File, ids oci.IDMap) (err error) {
	if source == nil {
		// Its name is the engine's, below folders that only root can change.
		if source, err = os.OpenFile(m.Source, unix.O_PATH, 0); err != nil {
			return err
		}
		defer source.Close() // O_PATH
	}
	tree, err := clone(source, slices.Contains(m.Options, "rbind"))
	if err != nil {
		return err
	}
	defer tree.Close() // the mount stays
	if err := restrict(tree, plan.Volume{IDs: ids}); err != nil {
		return err
	}
	if slices.Contains(m.Options, "ro") {
		if err := setReadOnly(tree, true); err != nil {
			return err
		}
	}
	return moveOnto(tree, at)
}

// WithContext gives a mount's options with the label for all its files. A bind mount gets none: it
// would take one without a word and do nothing. containerd adds context= from the spec's mount
// label. The label of the sandbox replaces it, and a mount that has both would be refused by the
// kernel.
func WithContext(m plan.Mount, label labels.Label) []string {
	options := slices.DeleteFunc(slices.Clone(m.Options), func(o string) bool { return strings.HasPrefix(o, "context=") })
	if label.IsZero() || isBind(m) {
		return options
	}
	return append(options, `context="`+label.String()+`"`)
}

// isBind knows both ways in which engines write it.
func isBind(m plan.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// mountAt is mount.Mount for any number of overlay layers: the kernel takes one page of options, so
// a longer list is made relative to the layers' common folder. The margin of 512 bytes is that of
// containerd's own check.
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
		// All threads of a process share one working folder; a chdir without it would move every
		// relative path of the shim.
		if err := unix.Unshare(unix.CLONE_FS); err != nil { // the working folder becomes this thread's own
			return err
		}
		if err := unix.Chdir(base); err != nil {
			return err
		}
		return mount.Mount(source, target, fsType, strings.Join(short, ","))
	})
}

// relativeLowers rewrites lowerdir= relative to the folder that all layers share; base is empty
// when they share none. Options without lowerdir= come back as they are, with an empty base.
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
		// The folder of all layers would be the host's root: nothing is gained by it, and mapLayers
		// would copy all of the host's tree.
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

// mapLayers shows an overlay's layers with other owners, in a folder beside the share that the
// guest cannot see: an overlay itself has no map. The overlay holds what it needs of them; undo
// takes the folder away once it is mounted. A crash before undo leaves a mount in the shim's mount
// namespace alone, which goes with it.
func (s *Share) mapLayers(options []string, ids oci.IDMap) (mapped []string, undo func() error, err error) {
	const aside = "layers"
	base, short := relativeLowers(options)
	if base == "" {
		return nil, nil, fmt.Errorf("layers %q have no folder in common: %w", options, errdefs.ErrNotImplemented)
	}
	source, err := os.OpenFile(base, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, nil, err
	}
	defer source.Close() // O_PATH
	tree, err := clone(source, false)
	if err != nil {
		return nil, nil, err
	}
	defer tree.Close() // the mount stays until undo
	// Private: the copy must not take over what the engine mounts below its snapshots in the
	// meantime.
	if err := setAttr(tree, false, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY, Propagation: unix.MS_PRIVATE}); err != nil {
		return nil, nil, fmt.Errorf("restrict %q: %w", base, err)
	}
	if err := mapOwners(tree, ids, false); err != nil {
		return nil, nil, fmt.Errorf("layers in %q: %w", base, err)
	}
	// overlayfs takes its layers by name, so the mapped copy needs one for the moment of the mount.
	folder, err := os.MkdirTemp(s.own.Name(), aside)
	if err != nil {
		return nil, nil, err
	}
	if err := moveTo(tree, folder); err != nil {
		return nil, nil, errors.Join(err, os.Remove(folder))
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

// MappableRootfs refuses a root file system that cannot have the map which the engine asks for,
// before there is a machine. The error is errdefs.ErrInvalidArgument or ErrNotImplemented and names
// the mount.
func MappableRootfs(mounts []plan.Mount) error {
	for i, m := range mounts {
		m, ids, err := plan.CutIDs(m)
		if err == nil && !ids.IsZero() {
			err = mappableMount(m, ids, mounts)
		}
		if err != nil {
			return fmt.Errorf("mount %d (%s): uidmap=: %w", i, m.Type, err)
		}
	}
	return nil
}

// mappableMount tries the map of one mount: of an overlay on the folder that its layers share,
// since mapLayers maps that one.
func mappableMount(m plan.Mount, ids oci.IDMap, all []plan.Mount) error {
	source := m.Source
	if !isBind(m) {
		if m.Type != "overlay" || slices.ContainsFunc(all, func(m plan.Mount) bool { return m.Type != "overlay" && !isBind(m) }) {
			return fmt.Errorf("owners of disks cannot be mapped: use the overlayfs snapshotter, or have the image's files chowned: %w",
				errdefs.ErrNotImplemented)
		}
		source, _ = relativeLowers(m.Options)
	}
	f, err := os.OpenFile(source, unix.O_PATH, 0)
	if err != nil {
		return err
	}
	defer f.Close() // O_PATH
	if err := tryOwners(f, ids, false, false); err != nil {
		return fmt.Errorf("%w: %w", err, errdefs.ErrInvalidArgument)
	}
	return nil
}
