// SPDX-License-Identifier: Apache-2.0

package oci

// The guest has a cgroup file system of its own at the place where the host has one. Images with
// systemd are told to bind it.
const cgroupFolder = "/sys/fs/cgroup"

// KernelFS says why a host's file system with that magic number (statfs(2),
// include/uapi/linux/magic.h) is no volume, and what to do instead; empty for others. What it shows
// is made by the host's kernel when it is read: its files have size 0, so that they read as empty
// through the file server, and they tell of the host and not of the guest. The name is the source's
// without links: with version 1 of cgroups their folder is a tmpfs, and the cgroups are mounted in
// it.
func KernelFS(name string, magic int64) string {
	const (
		host    = " of the host's kernel, whose files would read as empty in a guest: "
		own     = "leave the mount out, the container has the guest's own at "
		cgroup2 = 0x63677270
		tool    = "run programs that watch the host outside of cloister, or read a copy"
	)
	if name == cgroupFolder {
		magic = cgroup2
	}
	switch uint32(magic) {
	case 0x9fa0: // PROC_SUPER_MAGIC
		return "is /proc" + host + own + "/proc; " + tool
	case 0x62656572: // SYSFS_MAGIC
		return "is /sys" + host + own + "/sys; " + tool
	case 0x27e0eb, cgroup2: // CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC
		return "is a cgroup file system" + host + own + cgroupFolder + ", as -v " + cgroupFolder + ":" + cgroupFolder + " gives it; " + tool
	case 0x64626720, 0x74726163, 0x73636673, 0xcafe4a11, 0x62656570, 0xde5e81e4, 0x6165676c, 0xf97cff8c, 0x6e736673:
		// debugfs, tracefs, securityfs, bpf, configfs, efivarfs, pstore, selinuxfs, nsfs
		return "is a file system" + host + tool
	}
	return ""
}

// isCgroup says that a bind mount of the host's cgroups is for the guest's own in its place: what a
// systemd in the container needs.
func isCgroup(source, destination string) bool {
	return source == cgroupFolder && destination == cgroupFolder
}
