// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"golang.org/x/sys/unix"
)

// volume is a bind mount of the container, taken from the host's mounts before the proxy leaves
// them. A descriptor, since the source's name means something else once the root has changed.
type volume struct {
	tree        int // open_tree(2)'s descriptor
	destination string
}

// enterRoot makes the container's root file system the root of this process, which has a mount and
// a pid namespace of its own, with the container's volumes and a /proc that shows this process
// alone. Engines enter the mount namespace of the container's pid to copy files and to list
// processes: those must be the container's, never the host's. The order is: stop mounts from
// spreading, take the volumes by descriptor, change the root, attach the volumes, mount /proc. It
// runs in the proxy's own namespaces and on its main thread, whose root is the one that
// /proc/PID/root shows.
func enterRoot(root string, b bundle) error {
	// A slave still gets what the host unmounts, so the proxy keeps no file system busy; its own
	// mounts do not reach the host.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make the proxy's mounts a slave of the host's: %w", err)
	}
	volumes, err := takeVolumes(b)
	defer func() {
		for _, v := range volumes {
			_ = unix.Close(v.tree)
		}
	}()
	if err != nil {
		return err
	}
	// pivot_root wants a mount as the new root, and a folder need not be one.
	if err := unix.Mount(root, root, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind root file system %q: %w", root, err)
	}
	if err := os.Chdir(root); err != nil {
		return err
	}
	// Both names are one folder: the old root lies above the new one, and is taken away from there
	// (pivot_root(2)).
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root %q: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("leave the host's mounts: %w", err)
	}
	if err := os.Chdir("/"); err != nil {
		return err
	}
	for _, v := range volumes {
		// A link in the image leads no further than to the new root, as for the guest's runtime.
		// With T_SYMLINKS the kernel resolves a link at the end of the name; it cannot lead out,
		// since the root is the container's by now.
		err := unix.MoveMount(v.tree, "", unix.AT_FDCWD, v.destination, unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_SYMLINKS)
		// A destination that the guest's runtime makes in the guest does not exist here.
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("volume %q: %w", v.destination, err)
		}
	}
	// An image without /proc has none in the guest either until crun makes it. Of the proxy's own
	// pid namespace: podman top lists only the proxy in it.
	err = unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "")
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("mount /proc: %w", err)
	}
	return nil
}

// takeVolumes opens a copy of each bind mount's source. One that has gone is not there for the
// engine either. The caller closes the descriptors, also after an error.
func takeVolumes(b bundle) ([]volume, error) {
	var out []volume
	for _, m := range b.list("mounts") {
		mount, _ := m.(map[string]any)
		if !bind(mount) {
			continue
		}
		source := bundle(mount).text("source")
		// AT_RECURSIVE: a volume shows what is mounted in it, as in the guest.
		tree, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return out, fmt.Errorf("volume %q: %w", source, err)
		}
		out = append(out, volume{tree, bundle(mount).text("destination")})
	}
	return out, nil
}

// bring puts a copy of the mount at root into the daemon's mount namespace, in the folder that the
// daemon's bundle names. Podman keeps its mounts private: those that it makes after the daemon of
// a pod was started are not seen there. Removing the folder takes the mount away. It must come
// before the daemon creates the container. Nothing is left to undo: the mount is in the daemon's
// namespace and goes with it.
func (d dir) bring(ctx context.Context, socket, root string) error {
	conn, err := dial(ctx, socket)
	if err != nil {
		return err
	}
	defer conn.close()
	// The daemon's own pid: its mount namespace is private, and the daemon of a pod is not this
	// program's child.
	resp, err := conn.Connect(ctx, &taskapi.ConnectRequest{ID: d.id()})
	if err != nil {
		return plain(err)
	}
	// Cloned here, where the engine's mounts are visible, and moved there.
	tree, err := unix.OpenTree(unix.AT_FDCWD, root, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
	if err != nil {
		return fmt.Errorf("root.path %q: %w", root, err)
	}
	defer unix.Close(tree)
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", resp.GetShimPid()))
	if err != nil {
		return err
	}
	defer ns.Close()
	// Unbuffered: this function always receives.
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends
		// setns for a mount namespace is refused to a thread that shares its root and working
		// folder with others.
		err := unix.Unshare(unix.CLONE_FS)
		if err == nil {
			err = unix.Setns(int(ns.Fd()), unix.CLONE_NEWNS)
		}
		if err == nil {
			err = unix.MoveMount(tree, "", unix.AT_FDCWD, d.rootfs(), unix.MOVE_MOUNT_F_EMPTY_PATH)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		return fmt.Errorf("show the daemon the root file system: %w", err)
	}
	return nil
}
