// SPDX-License-Identifier: Apache-2.0

package lab

import "cloister/labels/policy"

// serverPair is what the file server does for its own guest all day and must not do to another's
// files.
func serverPair() []attempt {
	list := each("virtiofsd", mcs, []row{
		{"root file system of B: read", "open {dir}/rootfs-top", policy.RootfsType, "file", "read"},
		{"root file system of B: write", "open-rw {dir}/rootfs-top", policy.RootfsType, "file", "write"},
		{"root file system of B: append", "append {dir}/rootfs-top", policy.RootfsType, "file", "append"},
		{"root file system of B: search", "open {dir}/rootfs/file", policy.RootfsType, "dir", "search"},
		{"root file system of B: list", "list {dir}/rootfs", policy.RootfsType, "dir", "read"},
		{"root file system of B: mode", "chmod {dir}/rootfs-top", policy.RootfsType, "file", "setattr"},
		{"root file system of B: owner", "chown {dir}/rootfs-top", policy.RootfsType, "file", "setattr"},
		{"root file system of B: truncate", "truncate {dir}/rootfs-top", policy.RootfsType, "file", "write"},
		{"root file system of B: capability on a file", "setcap {dir}/rootfs-top", policy.RootfsType, "file", "setattr"},
		{"root file system of B: map", "mmap {dir}/rootfs-map", policy.RootfsType, "file", "read"},
		{"root file system of B: link read", "readlink {dir}/rootfs-link", policy.RootfsType, "lnk_file", "read"},
		{"root file system of B: new file", "create {fresh}/new", policy.RootfsType, "dir", "search"},
		{"root file system of B: new folder", "mkdir {fresh}/new", policy.RootfsType, "dir", "search"},
		{"root file system of B: new link", "symlink x {fresh}/new", policy.RootfsType, "dir", "search"},
		{"root file system of B: new node", "mknod {fresh}/new c 1 3", policy.RootfsType, "dir", "search"},
		{"volume of a container", "open {dir}/volume/file", policy.ContainerFileType, "dir", "search"},
		{"socket of B's file server", "connect {virtiofsd.name}", policy.VirtiofsdType, "unix_stream_socket", "connectto"},
	}, nil)
	for i := range list {
		if r := list[i]; len(r.try) > 0 && contains(r.try, "{fresh}") {
			list[i].fresh = policy.RootfsType + "/"
		}
	}
	handed := func(name, try, open, send, target, class, permission string) attempt {
		return attempt{
			name: name, from: "virtiofsd", tag: mcs, try: try, open: open, send: send,
			want: want{policy.VirtiofsdType, target, class, permission},
		}
	}
	list = append(list,
		handed("file of B, inherited", "inherited write", "rw:{dir}/rootfs-top", "", policy.RootfsType, "file", "write"),
		handed("file of B through a socket", "received", "", "rw:{dir}/rootfs-top", policy.RootfsType, "file", "read"),
		handed("folder of B through a socket", "received-dir", "", "d:{dir}/rootfs", policy.RootfsType, "dir", "read"),
		handed("memory of B's guest through a socket", "received-map", "",
			"rw:/proc/{qemu.pid}/fd/{qemu.memfd}", "cloister_qemu_tmpfs_t", "file", "read"),
		handed("log of B through a socket", "received-append", "", "a:{dir}/log", policy.RunType, "file", "append"),
	)
	list = append(list, each("virtiofsd", mcs, []row{
		{"files that two others share, by a third", "open-rw {dir}/rootfs-top", policy.RootfsType, "file", "write"},
	}, func(a *attempt) { a.against = "s" })...)
	return append(list, each("virtiofsd", mcs, []row{
		{"root file system of a pair that shares a category: read", "open {dir}/rootfs-top", policy.RootfsType, "file", "read"},
		{"root file system of a pair that shares a category: list", "list {dir}/rootfs", policy.RootfsType, "dir", "read"},
	}, func(a *attempt) { a.against = "c" })...)
}

// serverMakes is the way around by a node that the guest may make and nobody may open, and by a
// label of its own choosing.
func serverMakes() []attempt {
	list := each("virtiofsd", te, []row{
		{"memory device made in its own root: open", "mknod {fresh}/mem c 1 1 open", policy.RootfsType, "chr_file", "read"},
		{"null device made in its own root: open", "mknod {fresh}/null c 1 3 open", policy.RootfsType, "chr_file", "read"},
		{"disk made in its own root: open", "mknod {fresh}/disk b 254 0 open", policy.RootfsType, "blk_file", "read"},
		{"loop device made in its own root: open", "mknod {fresh}/loop b 7 7 open", policy.RootfsType, "blk_file", "read"},
		{"its file to B's pair", "setcon {fresh} system_u:object_r:cloister_rootfs_t:" + levelB, policy.RootfsType, "dir", "relabelfrom"},
		{"its file to no pair", "setcon {fresh} system_u:object_r:cloister_rootfs_t:s0", policy.RootfsType, "dir", "relabelfrom"},
		{
			"its file to the disks' type", "setcon {fresh} system_u:object_r:cloister_image_t:" + levelA,
			policy.RootfsType, "dir", "relabelfrom",
		},
		{"null device made in an engine's volume: open", "mknod {fresh}/null c 1 3 open", policy.ContainerFileType, "chr_file", "read"},
		{"disk made in an engine's volume: open", "mknod {fresh}/disk b 254 0 open", policy.ContainerFileType, "blk_file", "read"},
	}, func(a *attempt) { a.fresh, a.against = a.want.target+"/", "a" })
	return list
}

// serverType is what the file server's type has no right to.
func serverType() []attempt {
	return each("virtiofsd", te, []row{
		{"disk of B", "open {dir}/image", policy.ImageType, "file", "read"},
		{"block device of B", "open {dir}/disk", policy.ImageType, "blk_file", "read"},
		{"record of B", "open {dir}/record.json", policy.RunType, "file", "read"},
		{"shared content: write", "open-rw /usr/lab/content", policy.ContentType, "file", "write"},
		{"a stopped sandbox's files under a pair used again", "open /var/lib/lab/left/file", "var_lib_t", "dir", "search"},
		{"KVM", "openonly-write /dev/kvm", "kvm_device_t", "chr_file", "write"},
		{"a program in its own root", "exec {dir}/rootfs-top", policy.RootfsType, "file", "execute_no_trans"},
		{"network: tcp socket", "socket inet", policy.VirtiofsdType, "tcp_socket", "create"},
		{"network: packet socket", "socket packet", policy.VirtiofsdType, "packet_socket", "create"},
		{"a device by a mount", "mount /mnt", "mnt_t", "dir", "mounton"},
	}, func(a *attempt) {
		switch a.name {
		case "a program in its own root":
			a.against, a.permissive = "a", "ENOEXEC"
		case "shared content: write":
			a.own = "open /usr/lab/content"
		}
	})
}

// containerPair is the plain container against another, by the pair.
func containerPair() []attempt {
	return each("container", mcs, []row{
		{"volume of B: read", "open {dir}/volume-top", policy.ContainerFileType, "file", "read"},
		{"volume of B: write", "open-rw {dir}/volume-top", policy.ContainerFileType, "file", "write"},
		{"volume of B: search", "open {dir}/volume/file", policy.ContainerFileType, "dir", "search"},
		{"volume of B: list", "list {dir}/volume", policy.ContainerFileType, "dir", "read"},
		{"root file system of a guest", "open {dir}/rootfs-top", policy.RootfsType, "file", "read"},
		{"root file system of a guest: write", "open-rw {dir}/rootfs-top", policy.RootfsType, "file", "write"},
		{"root file system of a guest: search", "open {dir}/rootfs/file", policy.RootfsType, "dir", "search"},
		{"shared memory of B", "shm-attach {container.number}", policy.ContainerType, "shm", "unix_read"},
		{"shared memory of B: remove", "shm-remove {victim.number}", policy.ContainerType, "shm", "destroy"},
		{"semaphore of B", "sem-op {container.number}", policy.ContainerType, "sem", "unix_write"},
		{"message queue of B", "msg-send {container.number}", policy.ContainerType, "msgq", "unix_write"},
		{"key of B", "key-read {container.key}", policy.ContainerType, "key", "read"},
		{"stream socket of B", "connect {container.name}", policy.ContainerType, "unix_stream_socket", "connectto"},
	}, nil)
}

// containerType is the plain container against guests and the host.
func containerType() []attempt {
	return each("container", te, []row{
		{"disk of a guest", "open {dir}/image", policy.ImageType, "file", "read"},
		{"record of a guest", "open {dir}/record.json", policy.RunType, "file", "read"},
		{"log of a guest", "open {dir}/log", policy.RunType, "file", "read"},
		{"socket of a guest's QEMU", "connect {qemu.name}", policy.QEMUType, "unix_stream_socket", "connectto"},
		{"socket of a guest's file server", "connect {virtiofsd.name}", policy.VirtiofsdType, "unix_stream_socket", "connectto"},
		{"signal to a guest's QEMU", "kill {qemu.pid} 18", policy.QEMUType, "process", "signal"},
		{"trace a guest's QEMU", "seize {qemu.pid}", policy.QEMUType, "process", "ptrace"},
		{"memory map of a guest's QEMU", "open /proc/{qemu.pid}/maps", policy.QEMUType, "dir", "search"},
		{"shared content: write", "open-rw /usr/lab/content", policy.ContentType, "file", "write"},
		{"KVM", "openonly-write /dev/kvm", "kvm_device_t", "chr_file", "write"},
		{"mount", "mount /mnt", "mnt_t", "dir", "mounton"},
		{"device node of its own", "mknod {fresh}/node c 1 3", policy.ContainerFileType, "chr_file", "create"},
		{"disk node of its own", "mknod {fresh}/node b 254 0", policy.ContainerFileType, "blk_file", "create"},
		{
			"its file to B's pair", "setcon {fresh} system_u:object_r:cloister_container_file_t:" + levelB,
			policy.ContainerFileType, "dir", "relabelfrom",
		},
		{
			"its file to no pair", "setcon {fresh} system_u:object_r:cloister_container_file_t:s0",
			policy.ContainerFileType, "dir", "relabelfrom",
		},
	}, func(a *attempt) {
		if contains(a.try, "{fresh}") {
			a.fresh, a.against = policy.ContainerFileType+"/", "a"
		}
		if a.name == "shared content: write" {
			a.own = "open /usr/lab/content"
		}
	})
}
