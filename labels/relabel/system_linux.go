// SPDX-License-Identifier: Apache-2.0

package relabel

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// closed are folders of which nothing at all is labelled: the system's own. A wrong label there
// takes a file from the host's own programs.
func closed() []string {
	return []string{
		"/bin", "/boot", "/etc", "/lib", "/lib32", "/lib64", "/libx32", "/lost+found", "/proc", "/root",
		"/sbin", "/selinux", "/sys", "/usr",
		"/var/log", "/var/lib/dpkg", "/var/lib/rpm", "/var/lib/systemd", "/var/lib/selinux", "/run/systemd", "/run/udev",
	}
}

// tops are folders that are not labelled themselves, nor their parents; what is in them may be.
// They hold other users' and engines' files, which a recursive label would take away.
func tops() []string {
	return []string{
		"/dev", "/dev/hugepages", "/dev/mqueue", "/dev/shm",
		"/home", "/media", "/mnt", "/opt", "/run", "/srv", "/tmp", "/var", "/var/cache", "/var/lib", "/var/lib/cloister",
		"/var/lib/containerd", "/var/lib/containers", "/var/lib/docker", "/var/lib/kubelet", "/var/lib/libvirt", "/var/lib/nerdctl",
		"/var/opt", "/var/run", "/var/spool", "/var/tmp", "/run/cloister", "/run/containerd", "/run/docker", "/run/lock", "/run/user",
	}
}

// system knows the system's folders by path and, since a bind mount has other names for them, by
// device and inode. It is a value and does not change.
type system struct {
	closed, tops       []string
	closedIDs, topsIDs map[[2]uint64]string
}

func newSystem(closed, tops []string) system {
	return system{closed: closed, tops: tops, closedIDs: identities(closed), topsIDs: identities(tops)}
}

// identities gives device and inode of each folder that this host has.
func identities(folders []string) map[[2]uint64]string {
	ids := map[[2]uint64]string{}
	for _, folder := range folders {
		if id, ok := fileID(folder); ok { // resolves links: /bin may be one
			ids[id] = folder
		}
	}
	return ids
}

// fileID is what a path leads to, by device and inode; false where there is nothing.
func fileID(path string) ([2]uint64, bool) {
	info, err := os.Stat(path)
	if err != nil {
		return [2]uint64{}, false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return [2]uint64{}, false
	}
	return [2]uint64{stat.Dev, stat.Ino}, true
}

// check refuses the system's folders, what is in the closed ones, and the parents of all. The path
// is one that the kernel gave for an open descriptor, so no link is in it. Homes are refused as a
// whole: a home's label is what its user's other programs need.
func (s system) check(path string) error {
	for _, folder := range slices.Concat(s.closed, s.tops) {
		if path == "/" || path == folder || strings.HasPrefix(folder, path+"/") {
			return fmt.Errorf("%w: %s is a system folder, or holds %s: give a folder below it", ErrRefused, path, folder)
		}
	}
	if filepath.Dir(path) == "/home" {
		return fmt.Errorf("%w: %s is a home folder: give a folder in it", ErrRefused, path)
	}
	if id, ok := fileID(path); ok {
		if folder, found := s.topsIDs[id]; found {
			return fmt.Errorf("%w: %s is %s by another name", ErrRefused, path, folder)
		}
	}
	// Each folder above is compared by inode: a bind mount of /etc at /srv/x has the same one.
	for above := path; above != "/"; above = filepath.Dir(above) {
		id, ok := fileID(above)
		folder, found := s.closedIDs[id]
		if slices.Contains(s.closed, above) {
			folder, found, ok = above, true, true
		}
		if ok && found {
			return fmt.Errorf("%w: %s is in %s, a system folder: copy it elsewhere", ErrRefused, path, folder)
		}
	}
	return nil
}
