// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"

	"cloister/labels/policy"
)

func contains(s, part string) bool { return strings.Contains(s, part) }

func froms() []string { return []string{"qemu", "virtiofsd", "container"} }

// hostFromAll is the host, from each of the domains.
func hostFromAll() []attempt {
	var all []attempt
	for _, from := range froms() {
		kind := domains()[from].kind
		list := each(from, te, []row{
			{"passwords", "open /etc/shadow", "shadow_t", "file", "read"},
			{"home folder", "list /home/lab", "home_root_t", "dir", "search"},
			{"home folder that it can reach", "list /usr/lab/home", "user_home_dir_t", "dir", "read"},
			{"home file that it can reach", "open /usr/lab/homefile", "user_home_t", "file", "read"},
			{"registry of pairs", "open /var/lib/cloister/mcs/registry", "var_lib_t", "dir", "search"},
			{"registry that it can reach", "open-rw /usr/lab/registry", policy.VarLibType, "file", "write"},
			{"journal of labels that it can reach", "list /usr/lab/journal", policy.VarLibType, "dir", "read"},
			{"run folder: list", "list /run/cloister", policy.RunType, "dir", "read"},
			{"engine's storage", "list /var/lib/containerd", "var_lib_t", "dir", "search"},
			{"engine's socket", "connect /run/lab-engine.sock", "initrc_runtime_t", "sock_file", "write"},
			{"shim's socket", "connect {shim.name}", policy.ShimType, "unix_stream_socket", "connectto"},
			{"engine's abstract socket", "connect {engine.name}", "initrc_t", "unix_stream_socket", "connectto"},
			{"whole disk", "open /dev/vda", "fixed_disk_device_t", "blk_file", "read"},
			{"physical memory", "open /dev/mem", "memory_device_t", "chr_file", "read"},
			{"kernel messages", "syslog", kind, "capability2", "syslog"},
			{"cgroup of B: freeze", "write-text /sys/fs/cgroup/labb/cgroup.freeze 0", "cgroup_t", "file", "write"},
			{"cgroup of B: kill", "openonly-write /sys/fs/cgroup/labb/cgroup.kill", "cgroup_t", "file", "write"},
			{"policy: switch off", "write-text /sys/fs/selinux/enforce 1", "security_t", "file", "write"},
			{"core pattern", "openonly-write /proc/sys/kernel/core_pattern", "sysctl_kernel_t", "file", "write"},
			{"own next label", "attr exec system_u:system_r:initrc_t:s0", kind, "process", "setexec"},
			{"own label", "attr current system_u:system_r:" + kind + ":" + levelB, kind, "process", "setcurrent"},
			{"label of new files", "attr fscreate system_u:object_r:cloister_image_t:" + levelB, kind, "process", "setfscreate"},
			{"label of new sockets", "attr sockcreate system_u:system_r:cloister_shim_t:s0", kind, "process", "setsockcreate"},
			{"engine's process: trace", "seize {engine.pid}", "initrc_t", "process", "ptrace"},
			{"engine's process: signal", "kill {engine.pid} 18", "initrc_t", "process", "signal"},
			{"engine's process: files", "list /proc/{engine.pid}/fd", "initrc_t", "dir", "search"},
			{"shim's process: trace", "seize {shim.pid}", policy.ShimType, "process", "ptrace"},
			{"shim's process: signal", "kill {shim.pid} 18", policy.ShimType, "process", "signal"},
			{"enter the host's namespace", "setns /proc/1/ns/net", "init_t", "dir", "search"},
			{"io_uring", "io-uring", kind, "anon_inode", "create"},
			{"a kernel program", "bpf-map", kind, "capability2", "bpf"},
		}, nil)
		for i := range list {
			adapt(&list[i])
		}
		all = append(all, list...)
	}
	return all
}

// adapt fixes what differs from domain to domain.
func adapt(a *attempt) {
	switch a.name {
	case "kernel messages", "a kernel program":
		a.tag = cpb
	case "cgroup of B: freeze", "cgroup of B: kill":
		if a.from != "container" {
			a.want.class, a.want.permission = "dir", "search"
		}
	case "core pattern":
		if a.from == "qemu" {
			a.want.class, a.want.permission = "dir", "search"
		}
	case "policy: switch off":
		a.want.class, a.want.permission = "dir", "search"
	}
}

// processesFromAll is one party's processes against another's of the same type, by the pair, and
// what the type has not even towards its own.
func processesFromAll() []attempt {
	var all []attempt
	for _, from := range froms() {
		kind := domains()[from].kind
		pid := "{" + from + ".pid}"
		all = append(all, each(from, mcs, []row{
			{"process of B: signal", "kill " + pid + " 18", kind, "process", "signal"},
			{"process of B: kill", "kill {victim} 9", kind, "process", "sigkill"},
			{"process of B: stop", "kill {victim} 19", kind, "process", "sigstop"},
			{"process of B: signal by descriptor", "pidfd-signal " + pid + " 18", kind, "process", "signal"},
			{"process of B: scheduling", "setsched " + pid, kind, "process", "setsched"},
			{"process of B: priority", "nice " + pid, kind, "process", "setsched"},
			{"process of B: scheduling read", "getsched " + pid, kind, "process", "getsched"},
			{"process of B: capabilities read", "capget " + pid, kind, "process", "getcap"},
			{"process of B: session", "getsid " + pid, kind, "process", "getsession"},
			{"process of B: limits", "prlimit {victim}", kind, "process", "setrlimit"},
			{"process of B: environment", "open /proc/" + pid + "/environ", kind, "dir", "search"},
			{"process of B: memory map", "open /proc/" + pid + "/maps", kind, "dir", "search"},
			{"process of B: status", "open /proc/" + pid + "/status", kind, "dir", "search"},
			{"process of B: label", "open /proc/" + pid + "/attr/current", kind, "dir", "search"},
			{"process of B: open files", "list /proc/" + pid + "/fd", kind, "dir", "search"},
			{"process of B: root", "readlink /proc/" + pid + "/root", kind, "dir", "search"},
			{"process of B: namespace", "readlink /proc/" + pid + "/ns/net", kind, "dir", "search"},
		}, nil)...)
		all = append(all, each(from, te, []row{
			{"process of B: trace", "seize " + pid, kind, "process", "ptrace"},
			{"process of B: memory", "vmread " + pid, kind, "process", "ptrace"},
			{"process of B: take a descriptor", "pidfd-getfd " + pid + " 1", kind, "process", "ptrace"},
		}, nil)...)
	}
	return all
}
