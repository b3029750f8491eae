// SPDX-License-Identifier: Apache-2.0

package prove

import (
	"maps"
	"path/filepath"
	"slices"
	"strconv"

	"cloister/sandbox/confine"
)

// attack is one attack of one role. The same attack on the same thing is one row of the report.
type attack struct {
	by     confine.Role
	name   string
	on     string // for people
	target string // for the attacker
}

// Processes that are attacked. pidWord stands for the pid in a target.
const (
	rootsProcess = "a process of root"
	peersQEMU    = "another sandbox's QEMU"
	peersServer  = "another sandbox's virtiofsd"
	pidWord      = "PID"
)

// rows are all attacks, in order. dir is a folder that all users may write to, with the files of
// prepare; tcp and socket are addresses of servers, key that of shared memory. Both roles make the
// same attacks, but for what is a server's work. A target is what a captured process would go for:
// names that any user of the host can find out, or that it could guess.
func rows(dir, tcp, socket string, key int, peerFiles map[string]string) []attack {
	var all []attack
	add := func(by confine.Role, name, on, target string) { all = append(all, attack{by, name, on, target}) }
	for _, by := range []confine.Role{confine.Machine, confine.FileServer} {
		for _, on := range []string{rootsProcess, peersQEMU, peersServer} {
			for _, name := range []string{
				"ptrace", "pidfd_getfd", "process_vm_readv", "process_vm_writev", "kill", "tgkill", "priority",
			} {
				add(by, name, on, pidWord)
			}
			add(by, "read environ", on, "/proc/"+pidWord+"/environ")
			add(by, "list files", on, "/proc/"+pidWord+"/fd")
			add(by, "open memory", on, "/proc/"+pidWord+"/mem")
			add(by, "write oom_score_adj", on, "/proc/"+pidWord+"/oom_score_adj")
		}
		add(by, "list root", rootsProcess, "/proc/"+pidWord+"/root/")
		add(by, "setns", rootsProcess, pidWord)
		add(by, "prlimit", rootsProcess, pidWord)
		// Sorted, so that two reports of one host can be compared line by line.
		for _, name := range slices.Sorted(maps.Keys(peerFiles)) {
			verb, on := "read", "another sandbox's "+name
			if path := peerFiles[name]; path[len(path)-1] == '/' {
				verb = "list"
			}
			add(by, verb, on, peerFiles[name])
		}
		onHost(dir, func(name, on, target string) { add(by, name, on, target) })
		add(by, "unix", "an abstract socket", socket)
		add(by, "tcp", "the host's loopback", tcp)
		add(by, "shared memory", "the host's", strconv.Itoa(key))
		for _, name := range []string{
			"raw socket", "netlink", "fork", "fsopen", "open_tree", "pivot_root", "unshare", "user namespace", "keyctl", "bpf", "io_uring",
			"userfaultfd", "perf", "kernel log", "ioperm", "finit_module", "kexec_file_load",
		} {
			add(by, name, "", "")
		}
		if by == confine.Machine { // a file server may do both
			add(by, "chroot", "", "")
			add(by, "setuid", "", "")
		}
	}
	return all
}

// Files of the folder that attacks are made on.
const (
	secretFile  = "secret" // root's alone
	openFile    = "open"   // everybody's
	diskFile    = "disk"   // a device
	mountFolder = "mount"
	newFile     = "new" // what attacks make
	fullFile    = "full"
	nodeFile    = "node"
	linkFile    = secretFile + "-link"
)

// inMemory is a file that attacks make in /dev/shm. The name is unique to a run, as the folder's
// is.
func inMemory(dir string) string { return "/dev/shm/" + filepath.Base(dir) }

// onHost are the attacks on files of the host.
func onHost(dir string, add func(name, on, target string)) {
	of := func(name string) string { return filepath.Join(dir, name) }
	add("read", "/etc/shadow", "/etc/shadow")
	add("read", "/etc/passwd", "/etc/passwd")
	add("list", "/etc", "/etc") // a file server has a / of its own
	add("list", "/proc", "/proc")
	add("by handle", "/etc", "/etc")
	add("exec", "/bin/sh", "/bin/sh")
	add("write", "core_pattern", "/proc/sys/kernel/core_pattern")
	add("write", "sysrq-trigger", "/proc/sysrq-trigger")
	add("write", "/dev/kmsg", "/dev/kmsg")
	add("create", "/dev/shm", inMemory(dir))
	for _, name := range []string{"read", "write", "chmod", "link"} {
		add(name, "a file of root alone", of(secretFile))
	}
	add("write", "a file of everybody", of(openFile))
	add("create", "a folder of everybody", of(newFile))
	add("fill", "a folder of everybody", of(fullFile))
	add("mknod", "a folder of everybody", of(nodeFile))
	add("mount", "a folder of everybody", of(mountFolder))
	add("read", "a disk", of(diskFile))
	add("write", "a disk", of(diskFile))
}
