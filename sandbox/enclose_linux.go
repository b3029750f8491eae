// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"fmt"
	"maps"
	"os"
	"slices"

	"golang.org/x/sys/unix"
)

// enclose has /proc/PID/root of the machine's process show a folder instead of the host's files. QEMU opens nothing by name
// any more, and that is where engines look for a container's files (nerdctl cp). The folder is known by its descriptor:
// guests can change names.
func (s *Sandbox) enclose(top *os.File, readOnly bool) error {
	if s.root == nil {
		return nil
	}
	tree, err := unix.OpenTree(int(top.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return fmt.Errorf("open %q: %w", top.Name(), err)
	}
	defer unix.Close(tree)
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("restrict %q: %w", top.Name(), err)
	}
	return s.root.Replace(tree)
}

// encloseEmpty shows an empty folder.
func (s *Sandbox) encloseEmpty() error {
	empty, err := s.share.Empty()
	if err != nil {
		return err
	}
	defer empty.Close() // O_PATH
	return s.enclose(empty, true)
}

// showFiles has the files of a container seen where engines look for them, while it is alone in the guest: all containers there have
// the machine's pid. coming is one that is not among them yet, or nil.
func (s *Sandbox) showFiles(coming *resident) error {
	s.showing.Lock()
	defer s.showing.Unlock()
	s.mu.Lock()
	all := slices.Collect(maps.Values(s.containers))
	s.mu.Unlock()
	if coming != nil {
		all = append(all, coming)
	}
	if len(all) == 1 && all[0].rootfs != nil {
		return s.enclose(all[0].rootfs, all[0].readOnly)
	}
	return s.encloseEmpty()
}
