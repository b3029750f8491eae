// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// checkFolders holds the folders with guests' files against R30: not the system's own, nor a home,
// on a file system that takes labels.
func checkFolders(_ context.Context, s *site) []finding {
	// The engines' folders hold the root file systems of containers, which a sandbox labels while
	// it runs.
	folders := []struct{ name, path string }{
		{"state", s.config.State},
		{"root", s.config.Root},
		{"containerd's images", "/var/lib/containerd"},
		{"Docker's images", "/var/lib/docker"},
		{"Podman's images", "/var/lib/containers"},
	}
	var list []finding
	for i, f := range folders {
		_, err := os.Stat(s.path(f.path))
		// The first two are cloister's own; a start makes them, so they need not exist yet.
		if i > 1 && err != nil {
			continue // that engine is not here
		}
		if i < 2 {
			list = append(list, s.ownFolder(f.name, f.path)...)
		}
		list = append(list, s.folder(f.name, f.path))
	}
	return list
}

// ownFolder holds a folder that cloister writes to against what a start needs of it. It has
// no line for what is well. Root obeys no file that others may write: the folder and each one above
// it must be root's alone.
func (s *site) ownFolder(name, path string) []finding {
	var list []finding
	// For a user who is not root this says nothing, and Trusted passes.
	if err := sys.Trusted(s.path(path)); err != nil {
		list = append(list, failed(name, err))
	}
	there, err := existing(s.path(path))
	if err != nil {
		return append(list, failed(name, err))
	}
	// Only for root: for others the answer says nothing about the shim.
	if err := unix.Access(there, unix.W_OK); err != nil && os.Geteuid() == 0 {
		list = append(list, fail(name, fmt.Sprintf("%s cannot be written to: %v", path, err),
			"mount it read-write, or name another folder in the config"))
	}
	var st unix.Statfs_t
	// The nearest folder that exists: the one named may be made at the first start.
	if err := unix.Statfs(there, &st); err != nil {
		return append(list, failed(name, err))
	}
	// Inodes count as well: a file system can be full of small files.
	if free := int64(st.Bavail) * st.Bsize; free < leastFree || st.Files > 0 && st.Ffree == 0 {
		list = append(list, fail(name, fmt.Sprintf("the file system of %s is full: %d KiB and %d files are free", path, free>>10, st.Ffree),
			"remove what is not needed, or name another folder in the config"))
	}
	return list
}

// leastFree is what a sandbox's record and logs need of a file system, in bytes.
const leastFree = 4 << 20

// folder checks whether files in a folder may be labelled. The system's folders are refused by the
// relabelling itself too; here it is said before a start fails.
func (s *site) folder(name, path string) finding {
	if above, is := systemFolder(path); is {
		return fail(name, fmt.Sprintf("%s is in %s, whose files are never labelled for guests", path, above),
			"move it to a folder of its own, as in /var/lib or /srv")
	}
	there, err := existing(s.path(path))
	if err != nil {
		return failed(name, err)
	}
	err = takesLabels(there)
	switch {
	// The file system has no security labels at all; another error is one of this user's rights.
	case errors.Is(err, unix.ENOTSUP):
		return s.withoutLabels(name, path, there)
	case err != nil:
		return warn(name, fmt.Sprintf("%s: %v", path, err), "run it as root")
	}
	return ok(name, "%s: outside of the system's folders, takes labels", path)
}

// withoutLabels is bad news only where there are labels. With SELinux enabled, a file without a
// label has the file system's default, which guests may not touch.
func (s *site) withoutLabels(name, path, there string) finding {
	found := path + " is on a file system that takes no labels (" + fileSystem(there) + ")"
	// An error of Enabled counts as enabled here: a fail too many is better than one too few.
	if enabled, err := s.host.Enabled(); err == nil && !enabled {
		return ok(name, "%s; without SELinux none are needed", found)
	}
	return fail(name, found, "put it on ext4, xfs or btrfs")
}

// systemFolder tells whether path is the system's, or the home of somebody. A parent of many
// services' folders counts only as itself: /var/lib/cloister is fine, and /var/lib as a whole is
// not.
func systemFolder(path string) (string, bool) {
	path = filepath.Clean(path)
	for _, folder := range []string{
		"/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib32", "/lib64", "/libx32", "/lost+found", "/proc", "/root", "/sbin", "/sys",
		"/usr", "/var/log", "/var/lib/dpkg", "/var/lib/rpm", "/var/lib/selinux", "/var/lib/systemd",
	} {
		if path == folder || strings.HasPrefix(path, folder+"/") {
			return folder, true
		}
	}
	// Their subfolders are anybody's.
	if slices.Contains([]string{"/", "/var", "/var/lib", "/run", "/tmp", "/var/tmp", "/opt", "/srv", "/mnt", "/media"}, path) {
		return path, true
	}
	return "", false
}

// existing is path, or its nearest parent that exists. It stops at the first error that is not "not
// there": a folder that cannot be entered is the finding.
func existing(path string) (string, error) {
	for ; ; path = filepath.Dir(path) {
		if _, err := os.Stat(path); err == nil || !errors.Is(err, os.ErrNotExist) || path == "/" {
			return path, err
		}
	}
}

// takesLabels asks the file system; that there is no label yet is no error. A read of the label is
// enough: a file system that has none says so, and nothing is changed.
func takesLabels(path string) error {
	_, err := unix.Getxattr(path, "security.selinux", nil)
	if errors.Is(err, unix.ENODATA) {
		return nil
	}
	return err
}

// fileSystem names the file system by the numbers of linux/magic.h.
func fileSystem(path string) string {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return err.Error()
	}
	names := map[int64]string{
		unix.NFS_SUPER_MAGIC: "NFS", unix.SMB2_SUPER_MAGIC: "CIFS", unix.CIFS_SUPER_MAGIC: "CIFS", unix.FUSE_SUPER_MAGIC: "FUSE",
		unix.MSDOS_SUPER_MAGIC: "FAT", unix.V9FS_MAGIC: "9p", unix.TMPFS_MAGIC: "tmpfs", unix.OVERLAYFS_SUPER_MAGIC: "overlay",
	}
	if name, known := names[st.Type]; known {
		return name
	}
	return fmt.Sprintf("type %#x", st.Type)
}
