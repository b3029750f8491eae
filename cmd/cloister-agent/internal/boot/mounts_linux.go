// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/held"
	"cloister/cmd/cloister-agent/internal/reap"
)

const (
	newRoot    = "/newroot"
	cgroupRoot = "/sys/fs/cgroup"

	// The guest's users are the containers' users: folders may be walked by all.
	folderMode = 0o755
)

// mountPoint is one row of the table of mounts: type, where, flags, and the file system's own
// options.
type mountPoint struct {
	fstype, target string
	flags          uintptr
	data           string
}

// mountPoints are those that a usual host has, with systemd's flags. The order matters: /dev comes
// before what is mounted below it. nsdelegate makes a cgroup namespace a border, so that a
// container with its own cannot move processes out of it.
func mountPoints() []mountPoint {
	const quiet = unix.MS_NOSUID | unix.MS_NOEXEC | unix.MS_NODEV
	return []mountPoint{
		{"proc", "/proc", quiet, ""},
		{"sysfs", "/sys", quiet, ""},
		{"devtmpfs", "/dev", unix.MS_NOSUID, "mode=0755"},
		{"devpts", "/dev/pts", unix.MS_NOSUID | unix.MS_NOEXEC, "mode=0620,ptmxmode=0666,gid=5"},
		{"tmpfs", "/dev/shm", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"tmpfs", "/run", unix.MS_NOSUID | unix.MS_NODEV, "mode=0755"},
		{"tmpfs", "/tmp", unix.MS_NOSUID | unix.MS_NODEV, "mode=1777"},
		{"cgroup2", cgroupRoot, quiet, "nsdelegate"},
	}
}

// Prepare mounts, loads modules, sets limits, and makes the namespaces that containers share. Call
// it once, first. Where there is a user namespace it starts the agent a second time, and finds all
// done then. A caller treats every error as the end of the guest: nothing here is optional.
func Prepare() error {
	if held.Has(held.User) {
		return nil
	}
	// In the first root, before it is left: the kernel starts its modprobe there.
	if err := makeNull(); err != nil {
		return err
	}
	if err := leaveRootfs(); err != nil {
		return err
	}
	// The kernel's first mounts are empty: no step below works without /proc and /sys.
	for _, m := range mountPoints() {
		if err := mount(m); err != nil {
			return err
		}
	}
	if err := linkDescriptors(); err != nil {
		return err
	}
	if err := reap.Protect(); err != nil {
		return err
	}
	// Needs the cgroup mount and no process in a child cgroup; containers come much later.
	if err := enableControllers(); err != nil {
		return err
	}
	if err := loadModules(); err != nil {
		return err
	}
	// After the modules: a setting of a module exists only once the module is loaded.
	if err := raiseLimits(); err != nil {
		return err
	}
	users, err := Users()
	if err != nil {
		return err
	}
	// enter does not return without an error: it executes the agent again, in the namespaces where
	// the containers are root.
	if !users.IsZero() {
		return enter(users)
	}
	return holdNamespaces()
}

// makeNull gives the first root, in which the kernel starts its modprobe, the
// device without which Go's runtime does not start.
func makeNull() error {
	err := unix.Mknod(os.DevNull, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	if err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make %s: %w", os.DevNull, err)
	}
	return nil
}

// leaveRootfs makes a mount that has a parent the root: pivot_root(2), which
// every container needs, does not leave the kernel's first mount.
func leaveRootfs() error {
	if err := os.Mkdir(newRoot, folderMode); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("make new root: %w", err)
	}
	if err := unix.Mount("/", newRoot, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind new root: %w", err)
	}
	if err := unix.Chdir(newRoot); err != nil {
		return fmt.Errorf("enter new root: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move new root: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("change root: %w", err)
	}
	return unix.Chdir("/")
}

// mount makes one mount point and mounts on it. Names are the agent's own, so nothing here resolves
// foreign paths.
func mount(m mountPoint) error {
	if err := os.MkdirAll(m.target, folderMode); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	err := unix.Mount(m.fstype, m.target, m.fstype, m.flags, m.data)
	if errors.Is(err, unix.EBUSY) {
		return nil // the kernel has mounted devtmpfs itself
	}
	if err != nil {
		return fmt.Errorf("mount %s on %s: %w", m.fstype, m.target, err)
	}
	return nil
}

// linkDescriptors makes the links that programs expect in /dev; devtmpfs does not have them.
func linkDescriptors() error {
	for name, target := range map[string]string{
		"/dev/fd": "/proc/self/fd", "/dev/stdin": "/proc/self/fd/0",
		"/dev/stdout": "/proc/self/fd/1", "/dev/stderr": "/proc/self/fd/2",
	} {
		if err := os.Symlink(target, name); err != nil && !errors.Is(err, os.ErrExist) {
			return fmt.Errorf("link descriptors: %w", err)
		}
	}
	return nil
}

// enableControllers hands every controller down to the containers' cgroups. A cgroup has a
// controller only where its parent hands it down. crun does that from its own level only, and fails
// if the root has not.
func enableControllers() error {
	list, err := os.ReadFile(cgroupRoot + "/cgroup.controllers")
	if err != nil {
		return fmt.Errorf("read controllers: %w", err)
	}
	var enable strings.Builder
	for c := range strings.FieldsSeq(string(list)) {
		enable.WriteString("+" + c + " ")
	}
	if err := os.WriteFile(cgroupRoot+"/cgroup.subtree_control", []byte(enable.String()), 0); err != nil {
		return fmt.Errorf("enable controllers %s: %w", enable.String(), err)
	}
	return nil
}

// holdNamespaces gives names to the agent's namespaces, which are the
// sandbox's: containers join them by path. A bind mount of a namespace's file holds the namespace
// without a process in it.
func holdNamespaces() error {
	for _, name := range []string{held.Net, held.IPC, held.UTS} {
		if err := held.Hold(os.Getpid(), name, name); err != nil {
			return err
		}
	}
	return nil
}
