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
	rootsProcess   = "a process of root"
	peersQEMU      = "another sandbox's QEMU"
	peersServer    = "another sandbox's virtiofsd"
	peersContainer = "another sandbox's container"
	pidWord        = "PID"
)

// targets are what attacks are made on. dir is a folder that all users may write to, with the files
// of prepare; tcp, abstract and socket are addresses of servers, key that of shared memory, disk
// the number of a device. They are what a captured process would go for: names that any user of the
// host can find out, or that it could guess.
type targets struct {
	dir, tcp, abstract, socket, disk string

	key       int
	peerFiles map[string]string
}

// adds enters an attack.
type adds func(name, on, target string)

// rows are all attacks of a QEMU and a file server, in order. Both roles make the same attacks, but
// for what is a server's work.
func rows(t targets) []attack {
	var all []attack
	for _, by := range []confine.Role{confine.Machine, confine.FileServer} {
		add := func(name, on, target string) { all = append(all, attack{by, name, on, target}) }
		for _, on := range []string{rootsProcess, peersQEMU, peersServer} {
			onProcess(on, add)
		}
		onRoots(add)
		onPeer(t, add)
		onHost(t.dir, add)
		onServers(t, add)
		add("raw socket", "", "")
		add("netlink", "", "")
		add("fork", "", "")
		onKernel(add)
		if by == confine.Machine { // a file server may do both
			add("chroot", "", "")
			add("setuid", "", "")
		}
	}
	return all
}

// containerRows are all attacks of a plain container, in order. It may do much that a QEMU may not:
// read its own /proc, start programs, change its root directory and its user, make raw sockets and
// device nodes.
func containerRows(t targets) []attack {
	var all []attack
	add := func(name, on, target string) { all = append(all, attack{confine.Container, name, on, target}) }
	for _, on := range []string{rootsProcess, peersContainer} {
		onProcess(on, add)
	}
	onRoots(add)
	onPeer(t, add)
	onRootsFiles(t.dir, add)
	onKernelsFiles(add)
	// Relative, as the container may make both in its own files.
	if t.disk != "" {
		add("make and open", "a disk", nodeFile+" "+t.disk)
	}
	add("mount", "a folder of its own", mountFolder)
	add("by handle", "a folder of its own", ".")
	add("unix", "a socket of root's", t.socket)
	onServers(t, add)
	onKernel(add)
	return all
}

// notPromised is what no attack of a plain container is made on, for people: it would succeed, or
// depend on what the engine has given.
func notPromised() []string {
	return []string{
		"the host's kernel, by the system calls that a container may make: all plain containers share it",
		"processors, memory, processes and disks of the host, where the engine has set no limit",
		"what an engine gives on purpose: privileged, devices, sockets, namespaces and folders of the host",
	}
}

// onProcess are the attacks on one process.
func onProcess(on string, add adds) {
	for _, name := range []string{
		"ptrace", "pidfd_getfd", "process_vm_readv", "process_vm_writev", "kill", "tgkill", "priority",
	} {
		add(name, on, pidWord)
	}
	add("read environ", on, "/proc/"+pidWord+"/environ")
	add("list files", on, "/proc/"+pidWord+"/fd")
	add("open memory", on, "/proc/"+pidWord+"/mem")
	add("write oom_score_adj", on, "/proc/"+pidWord+"/oom_score_adj")
}

// onRoots are more attacks on root's process.
func onRoots(add adds) {
	add("list root", rootsProcess, "/proc/"+pidWord+"/root/")
	add("setns", rootsProcess, pidWord)
	add("prlimit", rootsProcess, pidWord)
}

// onPeer are the attacks on the other sandbox's files. Sorted, so that two reports of one host can
// be compared line by line.
func onPeer(t targets, add adds) {
	for _, name := range slices.Sorted(maps.Keys(t.peerFiles)) {
		verb, path := "read", t.peerFiles[name]
		if path[len(path)-1] == '/' {
			verb = "list"
		}
		add(verb, "another sandbox's "+name, path)
	}
}

// onServers are the attacks on what listens on the host, and on its shared memory.
func onServers(t targets, add adds) {
	add("unix", "an abstract socket", t.abstract)
	add("tcp", "the host's loopback", t.tcp)
	add("shared memory", "the host's", strconv.Itoa(t.key))
}

// onKernel are the system calls that no sandboxed process needs.
func onKernel(add adds) {
	for _, name := range []string{
		"fsopen", "open_tree", "pivot_root", "unshare", "user namespace", "keyctl", "bpf", "io_uring",
		"userfaultfd", "perf", "kernel log", "ioperm", "finit_module", "kexec_file_load",
	} {
		add(name, "", "")
	}
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
	socketFile  = "socket"
)

// inMemory is a file that attacks make in /dev/shm. The name is unique to a run, as the folder's
// is.
func inMemory(dir string) string { return "/dev/shm/" + filepath.Base(dir) }

// onHost are the attacks of a QEMU and a file server on files of the host.
func onHost(dir string, add adds) {
	of := func(name string) string { return filepath.Join(dir, name) }
	add("read", "/etc/passwd", "/etc/passwd")
	add("list", "/etc", "/etc") // a file server has a / of its own
	add("list", "/proc", "/proc")
	add("by handle", "/etc", "/etc")
	add("exec", "/bin/sh", "/bin/sh")
	add("create", "/dev/shm", inMemory(dir))
	onKernelsFiles(add)
	onRootsFiles(dir, add)
	add("fill", "a folder of everybody", of(fullFile))
	add("mknod", "a folder of everybody", of(nodeFile))
	add("mount", "a folder of everybody", of(mountFolder))
	add("read", "a disk", of(diskFile))
	add("write", "a disk", of(diskFile))
}

// onKernelsFiles are the attacks on what changes the whole host.
func onKernelsFiles(add adds) {
	add("write", "core_pattern", "/proc/sys/kernel/core_pattern")
	add("write", "sysrq-trigger", "/proc/sysrq-trigger")
	add("write", "/dev/kmsg", "/dev/kmsg")
}

// onRootsFiles are the attacks on files by their names on the host.
func onRootsFiles(dir string, add adds) {
	of := func(name string) string { return filepath.Join(dir, name) }
	add("read", "/etc/shadow", "/etc/shadow")
	for _, name := range []string{"read", "write", "chmod", "link"} {
		add(name, "a file of root alone", of(secretFile))
	}
	add("write", "a file of everybody", of(openFile))
	add("create", "a folder of everybody", of(newFile))
}
