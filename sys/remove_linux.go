// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"
)

// maxDepth bounds the folders in each other that RemoveBelow enters: each costs a descriptor.
const maxDepth = 512

// RemoveBelow removes name, one component in the folder dir, with all that is below it. Links are
// removed, not followed. It never crosses into a mount, bind mounts of the same file system
// included: what is mounted there stays, with the folders that lead to it, and is an error.
// Otherwise the cleanup of a sandbox whose volume is still mounted would empty the volume. A name
// that does not exist is no error. It goes on after an error and returns all of them.
func RemoveBelow(dir *os.File, name string) error {
	defer runtime.KeepAlive(dir)
	if err := component(name); err != nil {
		return fmt.Errorf("remove in %q: %w", dir.Name(), err)
	}
	if err := removeAt(int(dir.Fd()), name, 0); err != nil {
		return fmt.Errorf("remove %q: %w", filepath.Join(dir.Name(), name), err)
	}
	return nil
}

// RemoveTree is RemoveBelow by path, for folders that nobody else can write to up to the last
// component. A parent that does not exist is no error.
func RemoveTree(path string) error {
	parent, err := os.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove %q: %w", path, err)
	}
	defer parent.Close() // O_PATH
	return RemoveBelow(parent, filepath.Base(path))
}

// removeAt removes one name of an open folder: as a file first, which needs no look at what it is
// and so leaves nothing to exchange in between.
func removeAt(parent int, name string, depth int) error {
	err := unix.Unlinkat(parent, name, 0)
	if err == nil || errors.Is(err, unix.ENOENT) {
		return nil
	}
	if !errors.Is(err, unix.EISDIR) && !errors.Is(err, unix.EPERM) { // EPERM is POSIX's for a folder
		return fmt.Errorf("%s: %w", name, err)
	}
	if depth == maxDepth {
		return fmt.Errorf("%s: folders are nested more than %d deep", name, maxDepth)
	}
	how := unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: beneath | unix.RESOLVE_NO_XDEV}
	fd, err := retry(func() (int, error) { return unix.Openat2(parent, name, &how) })
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	folder := os.NewFile(uintptr(fd), name)
	defer folder.Close() // read only
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return err
	}
	var errs []error
	for _, n := range names {
		if err := removeAt(fd, n, depth+1); err != nil {
			errs = append(errs, fmt.Errorf("%s/%w", name, err))
		}
	}
	if err := unix.Unlinkat(parent, name, unix.AT_REMOVEDIR); err != nil && len(errs) == 0 {
		errs = append(errs, fmt.Errorf("%s: %w", name, err))
	}
	return errors.Join(errs...)
}
