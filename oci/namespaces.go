// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Namespaces says where the workload's namespaces come from.
type Namespaces struct {
	Network Namespace
	PID     Namespace
	IPC     Namespace
	UTS     Namespace
	User    Namespace // which one; IDs say whether there is one at all
	IDs     IDMap     // of the user namespace: a guest has one at most
}

// Namespace is one of them. Path empty: a new one. Else the host path of an
// existing one: for Network any, for the others the pod's own, or in a Sandbox the file that the
// engine knows its new one by.
type Namespace struct {
	Path string
	Pid  int // N when Path is /proc/N/ns/..., else 0
}

// Shared says that the namespace is an existing one.
func (n Namespace) Shared() bool { return n.Path != "" }

// namespaces checks linux.namespaces. A type that is missing means the host's in OCI, which a guest
// cannot have; each gets an error in the words of the engines' options for it.
func (w *Workload) namespaces(p *problems) {
	seen := make(map[specs.LinuxNamespaceType]bool)
	for i, ns := range w.spec.Linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		if seen[ns.Type] {
			p.refuse(field+".type", string(ns.Type), "is listed twice")
			continue
		}
		seen[ns.Type] = true
		// The pid tells whose namespace it is; the path itself is never opened here.
		got := Namespace{Path: ns.Path, Pid: procPid(ns.Path, ns.Type)}
		if ns.Path != "" && (!path.IsAbs(ns.Path) || strings.ContainsRune(ns.Path, 0)) {
			p.refuse(field+".path", ns.Path, "must be absolute")
		}
		switch ns.Type {
		case specs.NetworkNamespace:
			w.Namespaces.Network = got
		case specs.PIDNamespace:
			w.Namespaces.PID = w.podNamespace(p, field, got)
		case specs.IPCNamespace:
			w.Namespaces.IPC = w.podNamespace(p, field, got)
		case specs.UTSNamespace:
			w.Namespaces.UTS = w.podNamespace(p, field, got)
		case specs.UserNamespace:
			w.Namespaces.User = w.userNamespace(p, field, got)
		case specs.MountNamespace, specs.CgroupNamespace, specs.TimeNamespace:
			p.onlyNew(field, got)
		default:
			p.refuse(field+".type", string(ns.Type), "is not a namespace that runtime-spec 1.3 knows")
		}
	}
	w.joined(p)
	w.user(p, seen[specs.UserNamespace])
	w.missing(p, seen)
}

// podNamespace allows an existing namespace of a process: to a member of a pod its pod's, which
// GuestSpec checks, since it is told the pod's; to a container that shares another's network, that
// container's. CRI-O binds a pod's namespaces to files before the first container, which names
// those: there they mean the guest's own.
func (w *Workload) podNamespace(p *problems, field string, n Namespace) Namespace {
	kept := n.Shared() && n.Pid == 0
	if kept && !w.kept || n.Pid != 0 && w.Role == Sandbox {
		p.refuse(field+".path", n.Path,
			"does not belong to the workload's own pod: a guest shares namespaces only among its own containers; leave the path out, "+
				"or run both in one pod")
	}
	return n
}

// joined refuses a container of no pod that joins namespaces of another machine's: only whose
// network it shares is in the same guest.
func (w *Workload) joined(p *problems) {
	if w.Role != Single {
		return
	}
	for i, ns := range w.spec.Linux.Namespaces {
		switch ns.Type {
		case specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace:
		default:
			continue
		}
		if pid := procPid(ns.Path, ns.Type); pid != 0 && pid != w.Namespaces.Network.Pid {
			p.refuse(fmt.Sprintf("linux.namespaces[%d].path", i), ns.Path,
				"belongs to a container in another guest: share its network too (--network container:NAME), which puts "+
					"both into one guest, or leave the path out")
		}
	}
}

// userNamespace takes any name from a pod's first container, since its mappings say all of it; the
// others name the pod's, and a container that shares another's network, that container's.
func (w *Workload) userNamespace(p *problems, field string, n Namespace) Namespace {
	if w.Role == Sandbox || w.Role == Single && n.Pid != 0 {
		return n
	}
	return w.podNamespace(p, field, n)
}

// onlyNew refuses an existing namespace of a type that is made anew for each container.
func (p *problems) onlyNew(field string, n Namespace) {
	if n.Shared() {
		p.refuse(field+".path", n.Path, "a guest cannot join it: leave the path out")
	}
}

// missing refuses namespaces of the host: a type that is not listed means the runtime's own. To run
// such a container with namespaces of the guest's would give it something else than was asked for.
func (w *Workload) missing(p *problems, seen map[specs.LinuxNamespaceType]bool) {
	need := func(t specs.LinuxNamespaceType, text string) {
		if !seen[t] {
			p.refuse("linux.namespaces", nil, text)
		}
	}
	need(specs.NetworkNamespace,
		"no network entry means the host's network (hostNetwork, --net-host, --network host), which a guest cannot have: "+
			"give the container a network of its own")
	need(specs.PIDNamespace,
		"no pid entry means the host's processes (hostPID, --pid host), which a guest cannot see: use a private or the pod's pid namespace")
	need(specs.IPCNamespace,
		"no ipc entry means the host's ipc (hostIPC, --ipc host), which a guest cannot share: use a private or the pod's ipc namespace")
	if seen[specs.NetworkNamespace] { // a pod with the host's network has its name too, unasked
		need(specs.UTSNamespace, "no uts entry means the host's name (--uts host), which a guest cannot share: use a private uts namespace")
	}
	need(specs.MountNamespace, "no mount entry means the host's mounts, which a guest cannot share: list a mount namespace")
	if w.Role == Member && seen[specs.NetworkNamespace] && !w.Namespaces.Network.Shared() {
		p.refuse("linux.namespaces", nil, "a new network namespace inside a pod: containers of a pod share its network, name its path")
	}
}

// procPid gives N of /proc/N/ns/<type>, and 0 for any other path.
func procPid(name string, t specs.LinuxNamespaceType) int {
	rest, ok := strings.CutPrefix(name, "/proc/")
	if !ok {
		return 0
	}
	digits, rest, ok := strings.Cut(rest, "/")
	want := string(t)
	if t == specs.NetworkNamespace {
		want = "net"
	}
	if !ok || (rest != "ns/"+want && rest != "task/"+digits+"/ns/"+want) {
		return 0
	}
	pid, err := strconv.Atoi(digits)
	if err != nil || pid <= 0 || pid > 1<<22 { // PID_MAX_LIMIT, include/linux/threads.h
		return 0
	}
	return pid
}
