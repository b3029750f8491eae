// SPDX-License-Identifier: Apache-2.0

package lab

import "cloister/labels/policy"

// onRunning is what a process with the label of one sandbox's own QEMU, or of its file server,
// tries on another sandbox that the shim under test has made: its memory, its root, its records,
// its sockets.
func onRunning() []attempt {
	var all []attempt
	for _, from := range []string{"qemu", "virtiofsd"} {
		kind := domains()[from].kind
		pid := "{" + from + ".pid}"
		list := each(from, mcs, []row{
			{"running: memory through a socket", "received-map", "cloister_qemu_tmpfs_t", "file", "read"},
			{"running: memory, inherited", "inherited write", "cloister_qemu_tmpfs_t", "file", "write"},
			{"running: log through a socket", "received-append", policy.RunType, "file", "append"},
			{"running: signal", "kill " + pid + " 18", kind, "process", "signal"},
			{"running: scheduling", "setsched " + pid, kind, "process", "setsched"},
			{"running: memory map", "open /proc/" + pid + "/maps", kind, "dir", "search"},
			{"running: environment", "open /proc/" + pid + "/environ", kind, "dir", "search"},
			{"running: open files", "list /proc/" + pid + "/fd", kind, "dir", "search"},
			{"running: root", "readlink /proc/" + pid + "/root", kind, "dir", "search"},
		}, func(a *attempt) {
			switch a.name {
			case "running: memory through a socket":
				a.send = "rw:/proc/{qemu.pid}/fd/{qemu.memfd}"
			case "running: memory, inherited":
				a.open = "rw:/proc/{qemu.pid}/fd/{qemu.memfd}"
			case "running: log through a socket":
				a.send = "a:/proc/{shim.pid}/root{dir}/own/console.log"
			}
		})
		list = append(list, each(from, te, []row{
			{"running: trace", "seize " + pid, kind, "process", "ptrace"},
			{"running: record", "open {dir}/record.json", policy.RunType, "dir", "search"},
			{"running: console", "open {dir}/own/console.log", policy.RunType, "dir", "search"},
			{"running: folders of sandboxes", "list /run/cloister", policy.RunType, "dir", "read"},
			{"running: engine's socket", "connect /run/containerd/containerd.sock", "initrc_runtime_t", "dir", "search"},
			{"running: shim's socket", "connect {shim.socket}", "initrc_runtime_t", "dir", "search"},
			{"running: shell in the guest", "connect {dir}/debug", policy.RunType, "dir", "search"},
			{"running: shim: trace", "seize {shim.pid}", policy.ShimType, "process", "ptrace"},
			{"running: shim: memory map", "open /proc/{shim.pid}/maps", policy.ShimType, "dir", "search"},
		}, func(a *attempt) {
			a.own = "getsched " + pid
			if a.name == "running: console" {
				a.permissive = "ENOENT" // it lies in a file system of the sandbox's own
			}
		})...)
		all = append(all, list...)
		all = append(all, onTemplate(from)...)
	}
	all = append(all, attempt{
		name: "running: root file system through a socket", from: "virtiofsd", tag: mcs, try: "received-dir",
		send: "d:/proc/{virtiofsd.pid}/root",
		want: want{policy.VirtiofsdType, policy.RootfsType, "dir", "read"},
	})
	all = append(all, attempt{
		name: "running: shell in the guest", from: "container", tag: te, try: "connect {dir}/debug", own: "socket unix",
		want: want{policy.ContainerType, policy.RunType, "dir", "search"},
	})
	for i := range all {
		all[i].by, all[i].against = "first", "second"
	}
	return all
}

// onTemplate is the template that the attacked sandbox was started from, and its memory, which the
// shim has made: QEMU opens its own by name.
func onTemplate(from string) []attempt {
	list := each(from, te, []row{
		{"running: template: memory by name", "open {template}/memory", "var_lib_t", "dir", "search"},
		{"running: template: memory, inherited", "inherited", policy.VarLibType, "file", "read"},
		{"running: template: memory through a socket", "received", policy.VarLibType, "file", "read"},
	}, func(a *attempt) {
		a.own = "getsched {" + from + ".pid}"
		switch a.name {
		case "running: template: memory, inherited":
			a.open = "r:{template}/memory"
		case "running: template: memory through a socket":
			a.send = "r:{template}/memory"
		}
	})
	if from == "qemu" {
		list = append(list, each(from, mcs, []row{
			{"running: memory by name", "open-rw /proc/{qemu.pid}/fd/{qemu.memfd}", policy.QEMUType, "dir", "search"},
		}, nil)...)
	}
	return list
}

// unmediated is what SELinux does not keep one sandbox from, as far as this kernel and policy go:
// shown, and not counted.
func unmediated() []attempt {
	list := []attempt{
		{name: "that B's process is there", from: "qemu", try: "kill {qemu.pid} 0"},
		{name: "size and times of B's disk", from: "qemu", try: "stat {dir}/image"},
		{name: "tap of B through a socket", from: "qemu", try: "received-tap", send: "tap:labtap"},
		{name: "size and times of B's files", from: "virtiofsd", try: "stat {dir}/rootfs-top"},
		{name: "a user namespace", from: "qemu", try: "unshare user"},
		{name: "a limit for cores", from: "qemu", try: "core"},
	}
	return list
}
