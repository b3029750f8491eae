// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/sandbox/confine"
	"cloister/sandbox/jail"
)

// Show makes a folder QEMU's root directory in place of the one before. QEMU opens nothing by name,
// but engines look for a container's files below /proc/PID/root (nerdctl cp). The folder is known
// by its descriptor, because guests can change names. Without a root that can be replaced it does
// nothing. top may be closed afterwards. It is called again for each change of what is shown.
func (v *VM) Show(top *os.File, readOnly bool) error {
	if v.root == nil {
		return nil
	}
	tree, err := copyOf(top, readOnly)
	if err != nil {
		return err
	}
	defer tree.Close() // O_PATH
	return v.root.Replace(int(tree.Fd()))
}

// hideHost is Show of an empty folder, before the guest runs. It reads back that each thread of
// QEMU has that root.
func (v *VM) hideHost(empty *os.File) error {
	if v.root == nil {
		return nil
	}
	tree, err := copyOf(empty, true)
	if err != nil {
		return err
	}
	defer tree.Close() // O_PATH
	if err := v.root.Replace(int(tree.Fd())); err != nil {
		return err
	}
	return jail.VerifyRoot(v.Machine.Pid(), tree)
}

// copyOf is a detached mount of a folder, for a root directory. No link is followed in it: the
// guest owns the files, and a program of the host that opens names below /proc/PID/root would be
// led to the host's own by an absolute one. Links can be read, as by tools that resolve names
// themselves. The caller closes it.
func copyOf(top *os.File, readOnly bool) (*os.File, error) {
	tree, err := unix.OpenTree(int(top.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", top.Name(), err)
	}
	f := os.NewFile(uintptr(tree), top.Name())
	// The copy has these flags alone: the mount that the guest uses keeps its own.
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW,
		Propagation: unix.MS_PRIVATE,
	}
	if readOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
	}
	err = unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr)
	if errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: nosymfollow needs Linux 5.14", err)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("restrict %q: %w", top.Name(), err), f.Close())
	}
	return f, nil
}

// LeaveHost replaces the root directories of QEMU and the file server, which are the host's: by an
// empty folder, and by what the file server serves. It is called before the guest runs, when QEMU
// has an answer of the file server's. Before that answer the server still opens files by the host's
// names. A host whose root cannot be replaced fails the start, unless the administrator has allowed
// it.
func (v *VM) LeaveHost(ctx context.Context, empty *os.File) error {
	err := v.config.Jail.RootError(v.hideHost(empty))
	if errors.Is(err, jail.ErrKeepsRoot) {
		log.G(ctx).WithError(err).Warn("QEMU keeps the host's root directory: do not copy files by its pid (nerdctl cp)")
		v.root, err = nil, nil
	}
	ns := v.jails[confine.FileServer].Root
	if err != nil || ns == nil {
		return err
	}
	err = v.config.Jail.RootError(ns.Pivot(v.served))
	if errors.Is(err, jail.ErrKeepsRoot) {
		log.G(ctx).WithError(err).Warn("the host's root directory stays in virtiofsd's mount namespace")
		err = nil
	}
	if err != nil {
		return err
	}
	return jail.VerifyRoot(v.Files.Pid(), v.served)
}
