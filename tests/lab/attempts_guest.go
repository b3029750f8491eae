// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"slices"

	"cloister/labels/policy"
)

// row is an attempt of one domain in short: its name, what is tried, the denial's target, class and
// permission.
type row struct {
	name, try                 string
	target, class, permission string
}

// each makes rows attempts of one domain and tag.
func each(from string, t tag, rows []row, change func(*attempt)) []attempt {
	list := make([]attempt, 0, len(rows))
	for _, r := range rows {
		a := attempt{name: r.name, from: from, tag: t, try: r.try, want: want{domains()[from].kind, r.target, r.class, r.permission}}
		if change != nil {
			change(&a)
		}
		list = append(list, a)
	}
	return list
}

// attempts is the whole matrix.
func attempts() []attempt {
	var all []attempt
	for _, list := range [][]attempt{
		qemuPair(), qemuHanded(), qemuType(), qemuCapabilities(),
		serverPair(), serverMakes(), serverType(),
		containerPair(), containerType(),
		hostFromAll(), processesFromAll(),
	} {
		all = append(all, list...)
	}
	return all
}

// whole is the matrix with what runs under the built shim.
func whole() []attempt { return slices.Concat(attempts(), onRunning(), onPlain()) }

// qemuPair is what QEMU's type may do to its own and its pair keeps it from doing to others. Signal
// 18 is SIGCONT: it does nothing to a process that runs.
func qemuPair() []attempt {
	list := each("qemu", mcs, []row{
		{"disk of B: read", "open {dir}/image", policy.ImageType, "file", "read"},
		{"disk of B: write", "open-rw {dir}/image", policy.ImageType, "file", "write"},
		{"disk of B: append", "append {dir}/image", policy.ImageType, "file", "append"},
		{"block device of B: read", "open {dir}/disk", policy.ImageType, "blk_file", "read"},
		{"block device of B: write", "open-rw {dir}/disk", policy.ImageType, "blk_file", "write"},
		{"stream socket of B's QEMU", "connect {qemu.name}", policy.QEMUType, "unix_stream_socket", "connectto"},
		{"datagram socket of B's QEMU", "sendto {qemu.name}.dgram", policy.QEMUType, "unix_dgram_socket", "sendto"},
		{"socket of B's file server", "connect {virtiofsd.name}", policy.VirtiofsdType, "unix_stream_socket", "connectto"},
	}, nil)
	list = append(list, each("qemu", mcs, []row{
		{"disk that two others share, by a third", "open-rw {dir}/image", policy.ImageType, "file", "write"},
	}, func(a *attempt) { a.against = "s" })...)
	return append(list, each("qemu", mcs, []row{
		{"disk of a pair that shares a category: read", "open {dir}/image", policy.ImageType, "file", "read"},
		{"disk of a pair that shares a category: write", "open-rw {dir}/image", policy.ImageType, "file", "write"},
		{"socket of a pair that shares a category", "connect {qemu.name}", policy.QEMUType, "unix_stream_socket", "connectto"},
		{"signal to a pair that shares a category", "kill {qemu.pid} 18", policy.QEMUType, "process", "signal"},
	}, func(a *attempt) { a.against = "c" })...)
}

// qemuHanded is what comes as a descriptor, with the program or through a socket.
func qemuHanded() []attempt {
	handed := func(name, try, open, send, target, class, permission string) attempt {
		return attempt{
			name: name, from: "qemu", tag: mcs, try: try, open: open, send: send,
			want: want{policy.QEMUType, target, class, permission},
		}
	}
	return []attempt{
		handed("disk of B, inherited", "inherited", "rw:{dir}/image", "", policy.ImageType, "file", "read"),
		handed("disk of B, inherited: write", "inherited write", "rw:{dir}/image", "", policy.ImageType, "file", "write"),
		handed("block device of B, inherited", "inherited", "r:{dir}/disk", "", policy.ImageType, "blk_file", "read"),
		handed("log of B, inherited", "inherited write", "a:{dir}/log", "", policy.RunType, "file", "append"),
		handed("disk of B through a socket", "received", "", "rw:{dir}/image", policy.ImageType, "file", "read"),
		handed("disk of B through a socket: write", "received write", "", "rw:{dir}/image", policy.ImageType, "file", "write"),
		handed("block device of B through a socket", "received", "", "r:{dir}/disk", policy.ImageType, "blk_file", "read"),
		handed("log of B through a socket", "received-append", "", "a:{dir}/log", policy.RunType, "file", "append"),
		handed("memory of B through a socket", "received-map", "", "rw:/proc/{qemu.pid}/fd/{qemu.memfd}",
			"cloister_qemu_tmpfs_t", "file", "read"),
		handed("memory of B, inherited", "inherited", "rw:/proc/{qemu.pid}/fd/{qemu.memfd}", "", "cloister_qemu_tmpfs_t", "file", "write"),
	}
}

// qemuType is what QEMU's type has no right to, whatever the pair.
func qemuType() []attempt {
	return each("qemu", te, []row{
		{"root file system of B: search", "open {dir}/rootfs/file", policy.RootfsType, "dir", "search"},
		{"log of B by name", "open {dir}/log", policy.RunType, "file", "read"},
		{"record of B", "open {dir}/record.json", policy.RunType, "file", "read"},
		{"volume of a container", "open {dir}/volume/file", policy.ContainerFileType, "dir", "search"},
		{"shared content: write", "open-rw /usr/lab/content", policy.ContentType, "file", "write"},
		{"shared content: truncate", "truncate /usr/lab/content", policy.ContentType, "file", "write"},
		{"a powered-off image", "open /usr/lab/off.img", "virt_image_t", "file", "read"},
		{"a container's shared memory", "shm-attach {container.number}", policy.ContainerType, "shm", "associate"},
		{"a container's semaphore", "sem-op {container.number}", policy.ContainerType, "sem", "associate"},
		{"a container's message queue", "msg-send {container.number}", policy.ContainerType, "msgq", "associate"},
		{"a tap of its own", "tap labx", "tun_tap_device_t", "chr_file", "open"},
		{"the tap's queue of B", "tap tapb", "tun_tap_device_t", "chr_file", "open"},
		{"loop device by name", "open /dev/loop7", "fixed_disk_device_t", "blk_file", "read"},
		{"another program", "exec /usr/bin/true", "bin_t", "file", "execute"},
		{"a shell", "exec /lab/probe/probe-shell", "shell_exec_t", "file", "execute"},
		{"its own executable: write", "open-rw /lab/probe/probe-qemu", "qemu_exec_t", "file", "write"},
		{"written memory as code", "execmem", policy.QEMUType, "process", "execmem"},
		{"network: tcp socket", "socket inet", policy.QEMUType, "tcp_socket", "create"},
		{"network: udp socket", "socket udp", policy.QEMUType, "udp_socket", "create"},
		{"network: raw socket", "socket raw", policy.QEMUType, "rawip_socket", "create"},
		{"network: packet socket", "socket packet", policy.QEMUType, "packet_socket", "create"},
		{"network: routes", "socket route", policy.QEMUType, "netlink_route_socket", "create"},
		{"the kernel's cipher sockets", "socket alg", policy.QEMUType, "alg_socket", "create"},
		{"a key", "key-read {container.key}", policy.ContainerType, "key", "read"},
		{"a memfd as code", "memfd-exec", "cloister_qemu_tmpfs_t", "file", "execute"},
		{"machine sockets", "socket vsock", policy.QEMUType, "vsock_socket", "create"},
		{"make a device node", "mknod {dir}/node c 1 3", "usr_t", "dir", "write"},
		{"mount", "mount /mnt", "mnt_t", "dir", "mounton"},
	}, func(a *attempt) {
		switch a.name {
		case "its own executable: write":
			a.permissive = "ETXTBSY"
		case "shared content: write", "shared content: truncate":
			a.own = "open /usr/lab/content"
		case "a shell":
			a.permissive = "usage" // the probe again, without an operation
		}
	})
}

// qemuCapabilities is what root may and QEMU's domain may not.
func qemuCapabilities() []attempt {
	list := each("qemu", cpb, []row{
		{"another user", "setuid", policy.QEMUType, "capability", "setuid"},
		{"another group", "setgid", policy.QEMUType, "capability", "setgid"},
		{"a module of its own", "module-memory", policy.QEMUType, "capability", "sys_module"},
		{"remove a module", "delete-module nosuch", policy.QEMUType, "capability", "sys_module"},
		{"the clock", "settime", policy.QEMUType, "capability", "sys_time"},
		{"restart the host", "reboot", policy.QEMUType, "capability", "sys_boot"},
		{"another kernel", "kexec", policy.QEMUType, "capability", "sys_boot"},
		{"the host's name", "hostname", policy.QEMUType, "capability", "sys_admin"},
		{"a root of its own", "chroot /usr", policy.QEMUType, "capability", "sys_chroot"},
		{"input and output ports", "iopl", policy.QEMUType, "capability", "sys_rawio"},
		{"faults of memory by hand", "userfaultfd", policy.QEMUType, "capability", "sys_ptrace"},
		{"performance counters of the host", "perf", policy.QEMUType, "capability", "sys_admin"},
		{"memory that stays", "mlock", policy.QEMUType, "capability", "ipc_lock"},
		{"namespace of its own: network", "unshare net", policy.QEMUType, "capability", "sys_admin"},
		{"namespace of its own: mounts", "unshare mount", policy.QEMUType, "capability", "sys_admin"},
		{
			"a label on its own disk", "setcon {dir}/image system_u:object_r:cloister_image_t:" + levelB,
			policy.ImageType, "file", "relabelfrom",
		},
	}, nil)
	for i := range list {
		switch list[i].name {
		case "a module of its own":
			list[i].permissive = "ENOEXEC"
		case "remove a module":
			list[i].permissive = "ENOENT"
		case "a label on its own disk":
			list[i].against, list[i].tag = "a", te
		}
	}
	return list
}
