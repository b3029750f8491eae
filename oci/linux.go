// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// linux checks the linux section of class vm. Each field of runtime-spec 1.3 is honoured, refused
// or ignored on purpose; fields_test.go fails for one that nobody has decided on.
func (w *Workload) linux(opts Options, p *problems) {
	l := w.spec.Linux
	w.CgroupsPath = l.CgroupsPath
	w.Labels.Mount = l.MountLabel
	w.namespaces(p)
	w.devices(opts, p)
	w.Resources = p.resources("linux.resources", l.Resources)
	w.sysctls(p)
	w.podDomain()
	p.seccomp(l.Seccomp)
	if strings.ContainsRune(l.CgroupsPath, 0) {
		p.refuse("linux.cgroupsPath", l.CgroupsPath, "holds a zero byte")
	}
	if !slices.Contains([]string{"", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable"},
		l.RootfsPropagation) {
		p.refuse("linux.rootfsPropagation", l.RootfsPropagation, "is not a propagation")
	}
	p.absolute("linux.maskedPaths", l.MaskedPaths)
	p.absolute("linux.readonlyPaths", l.ReadonlyPaths)
	if len(l.NetDevices) > 0 {
		p.refuse("linux.netDevices", slices.Sorted(maps.Keys(l.NetDevices)),
			"a host link cannot move into a guest: let the engine put it into the container's network namespace")
	}
	if l.IntelRdt != nil {
		p.refuse("linux.intelRdt", l.IntelRdt.ClosID, "is not supported for guests: remove it")
	}
	if m := l.MemoryPolicy; m != nil && (m.Mode != specs.MpolDefault || m.Nodes != "" || len(m.Flags) > 0) {
		p.refuse("linux.memoryPolicy", string(m.Mode), "names memory nodes of the host: use linux.resources.cpu.mems")
	}
	if x := l.Personality; x != nil && (len(x.Flags) > 0 || x.Domain != specs.PerLinux && x.Domain != specs.PerLinux32) {
		p.refuse("linux.personality", string(x.Domain), "only LINUX and LINUX32 without flags are known")
	}
	for _, name := range slices.Sorted(maps.Keys(l.TimeOffsets)) {
		if o := l.TimeOffsets[name]; o.Secs != 0 || o.Nanosecs != 0 {
			p.refuse("linux.timeOffsets", name, "the guest's runtime cannot set it: remove it")
		}
	}
}

// absolute refuses paths that would depend on a working folder.
func (p *problems) absolute(field string, list []string) {
	for _, v := range list {
		if !path.IsAbs(v) || strings.ContainsRune(v, 0) {
			p.refuse(field, v, "must be absolute")
		}
	}
}

// sysctls sorts them by who can set them: the guest's runtime only knows those of namespaces it
// makes. What is none of these would need a sysctl of the host, or one that names a program for the
// guest's kernel to run.
func (w *Workload) sysctls(p *problems) {
	for _, given := range slices.Sorted(maps.Keys(w.spec.Linux.Sysctl)) {
		value := w.spec.Linux.Sysctl[given]
		name := sysctlName(given)
		field := "linux.sysctl[" + given + "]"
		switch {
		case name == "" || strings.ContainsAny(value, "\x00\n"):
			p.refuse(field, value, "is not the name or value of a sysctl")
		case strings.HasPrefix(name, "net."):
			put(&w.Sysctls.Network, name, value)
		// A Single or Member has an ipc namespace that crun makes or joins, so crun sets it.
		case ipcSysctl(name):
			if w.Role == Sandbox { // a pod's containers are in the guest's own ipc namespace, and its pause process is in none
				put(&w.Sysctls.Kernel, name, value)
			}
		case kernelSysctl(name):
			if w.Role == Member {
				p.refuse(field, value, "belongs to the whole guest: set it on the pod")
				continue
			}
			put(&w.Sysctls.Kernel, name, value)
		case name == "kernel.domainname": // all that Docker sends of --domainname
			switch {
			case w.Domainname != "" && w.Domainname != value:
				p.refuse(field, value, "differs from domainname")
			case w.Namespaces.UTS.Shared() && w.Role != Sandbox:
				p.refuse(field, value, "the uts namespace is the pod's: set it on the pod")
			}
			w.Domainname = value
		default:
			p.refuse(field, value,
				"is not a sysctl that a guest sets for its workload: allowed are net.*, kernel.msg*, kernel.sem, "+
					"kernel.shm*, fs.mqueue.*, vm.* and limits of files and processes")
		}
	}
}

// podDomain has a pod's domain name set with the guest, whose uts namespace its containers share.
func (w *Workload) podDomain() {
	if w.Role == Sandbox && w.Domainname != "" {
		put(&w.Sysctls.Kernel, "kernel.domainname", w.Domainname)
	}
}

// put sets a key in a map that may not be there yet, so that empty maps stay out of the JSON.
func put(m *map[string]string, k, v string) {
	if *m == nil {
		*m = map[string]string{}
	}
	(*m)[k] = v
}

// sysctlName gives the dotted form, or empty when the name could leave /proc/sys.
// Interface names may hold a dot, which sysctl(8) writes as a slash.
func sysctlName(s string) string {
	if s == "" || len(s) > 255 || strings.ContainsAny(s, "\x00\n\\ ") || strings.Contains(s, "..") || strings.HasPrefix(s, "/") {
		return ""
	}
	slash, dot := strings.IndexByte(s, '/'), strings.IndexByte(s, '.')
	if slash >= 0 && (dot < 0 || slash < dot) { // a/b/c form: swap separators
		s = strings.Map(func(r rune) rune {
			switch r {
			case '/':
				return '.'
			case '.':
				return '/'
			}
			return r
		}, s)
	}
	if strings.Contains(s, "//") || strings.HasPrefix(s, ".") || strings.HasSuffix(s, ".") ||
		strings.Contains(s, "./") || strings.Contains(s, "..") {
		return ""
	}
	return s
}

// ipcSysctl says that the sysctl is of the ipc namespace.
func ipcSysctl(name string) bool {
	return strings.HasPrefix(name, "fs.mqueue.") ||
		contains("kernel.msgmax kernel.msgmnb kernel.msgmni kernel.sem kernel.shmall kernel.shmmax kernel.shmmni kernel.shm_rmid_forced",
			name)
}

// kernelSysctl says that a workload may set it for its guest's kernel: limits
// and tuning, nothing that names a program.
func kernelSysctl(name string) bool {
	return strings.HasPrefix(name, "vm.") || strings.HasPrefix(name, "fs.inotify.") || strings.HasPrefix(name, "kernel.keys.") ||
		contains("fs.file-max fs.nr_open fs.aio-max-nr kernel.pid_max kernel.threads-max kernel.numa_balancing "+
			"kernel.sched_autogroup_enabled", name)
}

// seccomp refuses notification: its listener is a host program that would read
// a guest's memory. The rest is passed on.
func (p *problems) seccomp(s *specs.LinuxSeccomp) {
	if s == nil {
		return
	}
	if s.ListenerPath != "" || s.ListenerMetadata != "" {
		p.refuse("linux.seccomp.listenerPath", s.ListenerPath, "a host program cannot answer for a guest's processes: remove it")
	}
	p.action("linux.seccomp.defaultAction", s.DefaultAction)
	for i, c := range s.Syscalls {
		p.action(fmt.Sprintf("linux.seccomp.syscalls[%d].action", i), c.Action)
	}
	for _, f := range s.Flags {
		if f != specs.LinuxSeccompFlagLog && f != specs.LinuxSeccompFlagSpecAllow && f != "SECCOMP_FILTER_FLAG_TSYNC" {
			p.refuse("linux.seccomp.flags", string(f), "needs a notification listener, which a guest cannot have: remove it")
		}
	}
}

// seccompActions are the actions that need no host program.
const seccompActions = "SCMP_ACT_KILL SCMP_ACT_KILL_PROCESS SCMP_ACT_KILL_THREAD SCMP_ACT_TRAP SCMP_ACT_ERRNO SCMP_ACT_TRACE " +
	"SCMP_ACT_ALLOW SCMP_ACT_LOG"

// action refuses an action of a filter that the guest's runtime could not carry out.
func (p *problems) action(field string, a specs.LinuxSeccompAction) {
	switch {
	case contains(seccompActions, string(a)):
	case a == specs.ActNotify:
		p.refuse(field, string(a), "a host program cannot answer for a guest's processes: use another action")
	default:
		p.refuse(field, string(a), "is not an action of seccomp")
	}
}
