// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"fmt"
	"path"
	"strconv"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// MountKind says on which side a mount is made.
type MountKind int

// The kinds.
const (
	GuestMount MountKind = iota + 1 // made in the guest alone: proc, tmpfs, ...
	BindMount                       // a host folder or file that is shared or copied
)

// Purpose says what a bind mount is for, as far as its destination tells.
type Purpose int

// The purposes.
const (
	Volume         Purpose = iota // anything else: shared
	ResolvFile                    // /etc/resolv.conf: copied in, not shared
	HostsFile                     // /etc/hosts: copied in, not shared
	HostnameFile                  // /etc/hostname: copied in, not shared
	SharedMemory                  // /dev/shm of a pod: the guest has its own
	TerminationLog                // /dev/termination-log: shared; a member's last words
)

// Follows says that what the host mounts below a BindMount later is seen in the container: when
// asked for, and where nothing is said, as with runc. A recursive read-only mount does not: a later
// mount would be writable.
func (m Mount) Follows() bool {
	return m.slave() || m.Propagation == "" && !m.RecursiveRO
}

func (m Mount) slave() bool { return m.Propagation == "slave" || m.Propagation == "rslave" }

// WritableBelow says that the container may write to what is, or comes to be, mounted below a
// read-only BindMount; mounts says whether anything is mounted there now. The guest's kernel hands
// a mount's read-only down to those below it, so the host alone enforces it then.
func (m Mount) WritableBelow(mounts bool) bool {
	return m.Kind == BindMount && m.Recursive && !m.RecursiveRO && (mounts || m.slave())
}

// ReadOnlyBelow takes what is mounted below a read-only bind mount as read-only, too. Docker means
// that by "ro": it says "rro" only to a runtime whose features it can ask for, and it cannot ask a
// containerd shim. A slave is left out, since what the host mounts below it later stays writable.
func (w *Workload) ReadOnlyBelow() {
	for i, m := range w.Mounts {
		if m.Kind == BindMount && m.ReadOnly && m.Recursive && !m.slave() {
			w.Mounts[i].RecursiveRO = true
		}
	}
}

// Copied says that the file's bytes go to the guest instead of a share of it.
func (p Purpose) Copied() bool {
	return p == ResolvFile || p == HostsFile || p == HostnameFile
}

// Mount is one mount of the configuration. A Mount of a checked Workload can be honoured as it
// stands.
type Mount struct {
	Kind        MountKind
	Purpose     Purpose // of a BindMount
	Type        string  // of a GuestMount: proc, sysfs, devpts, mqueue, tmpfs, cgroup
	Source      string  // of a BindMount: host path, absolute or relative to the bundle; else the name to show
	Destination string  // absolute, clean, in the container
	Recursive   bool    // of a BindMount: with what is mounted below
	ReadOnly    bool    // the host enforces it for a BindMount
	RecursiveRO bool    // also what is mounted below
	Sharing     string  // of a Volume, by annotation: private, shared, readonly, keep, label, or empty
	Label       string  // goes with the sharing "label"
	IDs         IDMap   // of a BindMount: what becomes of its files' owners; zero: nothing
	MapsBelow   bool    // also of what is mounted below
	Propagation string  // private, rprivate, slave, rslave, unbindable, runbindable or empty
	Options     []string
}

// mounts checks and classifies the mounts. They stay in order, and every index into Workload.Mounts
// is one into the configuration's.
func (w *Workload) mounts(p *problems) {
	for i, m := range w.spec.Mounts {
		field := fmt.Sprintf("mounts[%d]", i)
		if m.Destination == "" || strings.ContainsRune(m.Destination+m.Source, 0) {
			p.refuse(field+".destination", m.Destination, "is empty, or holds a zero byte")
		}
		out := Mount{Destination: path.Join("/", m.Destination)}
		p.procDestination(field, m.Type, out.Destination)
		if isBind(m) {
			out.Kind, out.Source = BindMount, m.Source
			out.Purpose = purpose(w.Role, out.Destination)
			if m.Source == "" {
				p.refuse(field+".source", nil, "is missing")
			}
			out.IDs = w.mountIDs(p, field, m)
			p.bindOptions(field, m.Options, &out)
			if isCgroup(path.Clean(out.Source), out.Destination) {
				p.ignore(field+".source", m.Source, "the container gets the guest's own cgroups there")
				out = Mount{
					Kind: GuestMount, Type: "cgroup", Destination: out.Destination,
					ReadOnly: out.ReadOnly, Propagation: out.Propagation, Options: out.Options,
				}
			}
		} else {
			out.Kind, out.Type, out.Source = GuestMount, m.Type, m.Source
			if len(m.UIDMappings) > 0 || len(m.GIDMappings) > 0 {
				p.refuse(field+".uidMappings", m.Destination, "only a bind mount can be id-mapped: leave uidMappings and gidMappings out")
			}
			p.guestOptions(field, m, &out)
		}
		w.Mounts = append(w.Mounts, out)
	}
}

// procFiles may be bound over, as by lxcfs; they are runc's list (libcontainer/rootfs_linux.go).
const procFiles = "/proc/cpuinfo /proc/diskstats /proc/meminfo /proc/stat /proc/swaps /proc/uptime /proc/loadavg " +
	"/proc/slabinfo /proc/net/dev " +
	"/proc/sys/kernel/ns_last_pid /proc/sys/crypto/fips_enabled"

// procDestination refuses what would hide the container's /proc, by which the runtime and many
// programs know of processes. runc refuses the same.
func (p *problems) procDestination(field, kind, destination string) {
	inside := destination == "/proc" || strings.HasPrefix(destination, "/proc/")
	if inside && kind != "proc" && !contains(procFiles, destination) {
		p.refuse(field+".destination", destination, "cannot be mounted because it is inside /proc: choose a destination elsewhere")
	}
}

// isBind takes a mount for a bind mount by its type or its options, as OCI runtimes do.
func isBind(m specs.Mount) bool {
	if m.Type == "bind" {
		return true
	}
	for _, o := range m.Options {
		if o == "bind" || o == "rbind" {
			return true
		}
	}
	return false
}

// purpose tells by the destination what an engine has bound a file for. /dev/shm of a pod is not
// shared: the host's and a guest's processes have no memory in common.
func purpose(r Role, destination string) Purpose {
	switch destination {
	case "/etc/resolv.conf":
		return ResolvFile
	case "/etc/hosts":
		return HostsFile
	case "/etc/hostname":
		return HostnameFile
	case "/dev/termination-log":
		return TerminationLog
	case "/dev/shm":
		if r != Single {
			return SharedMemory
		}
	}
	return Volume
}

// flagOptions are the mount flags that mean the same in the guest.
const flagOptions = "nosuid suid nodev dev noexec exec noatime atime relatime norelatime strictatime nostrictatime nodiratime diratime " +
	"sync async dirsync nosymfollow symfollow iversion noiversion lazytime nolazytime mand nomand silent loud defaults"

// bindOptions are what else a bind mount takes.
const bindOptions = "bind rbind ro rro rw rrw private rprivate slave rslave unbindable runbindable idmap ridmap"

// bindOptions reads a bind mount's options; later ones win, as with mount(8). An unknown option is
// refused, since it may be one that takes a right away.
func (p *problems) bindOptions(field string, options []string, m *Mount) {
	for _, o := range options {
		switch o {
		case "bind":
		case "rbind":
			m.Recursive = true
		case "ro":
			m.ReadOnly = true
		case "rro":
			m.ReadOnly, m.RecursiveRO = true, true
		case "rw", "rrw":
			m.ReadOnly, m.RecursiveRO = false, false
		case "private", "rprivate", "slave", "rslave", "unbindable", "runbindable":
			m.Propagation = o
		case "shared", "rshared":
			p.refuse(field+".options", o, "mounts made in a guest cannot reach the host ("+m.Destination+
				"): use rslave (HostToContainer) or rprivate")
		case "idmap":
			m.MapsBelow = false
		case "ridmap":
			m.MapsBelow = true
		case "copy", "nocopy", "z", "Z": // of engines' command lines: already dealt with there
			p.ignore(field+".options", o, "is the engine's own")
		default:
			if !contains(flagOptions, o) {
				p.refuse(field+".options", o, "is not known for a bind mount ("+m.Destination+"): remove it")
				continue
			}
			m.Options = append(m.Options, o)
		}
	}
	if m.RecursiveRO && m.slave() {
		p.refuse(field+".options", "rro", "what the host mounts there later would be writable ("+m.Destination+
			"): use rro with rprivate, or ro with "+m.Propagation)
	}
}

// guestOptions reads the options of a mount that the guest makes. Types and keys are allow lists: a
// file system of a host's device or network does not exist in the guest, and a comma in a value
// would add an option.
func (p *problems) guestOptions(field string, in specs.Mount, m *Mount) {
	var keys string
	switch in.Type {
	case "proc":
		keys = "hidepid gid subset"
	case "devpts":
		keys = "gid uid mode ptmxmode max newinstance"
	case "tmpfs":
		keys = "size nr_blocks nr_inodes mode uid gid inode32 inode64 noswap huge tmpcopyup"
	case "mqueue", "sysfs", "cgroup", "cgroup2":
	default:
		p.refuse(field+".type", in.Type, "cannot be mounted at "+m.Destination+
			" in a guest: use bind, tmpfs, proc, sysfs, devpts, mqueue or cgroup")
		return
	}
	for _, o := range in.Options {
		key, _, _ := strings.Cut(o, "=")
		switch {
		case o == "ro":
			m.ReadOnly = true
		case o == "rw":
			m.ReadOnly = false
		case contains(flagOptions, o):
			m.Options = append(m.Options, o)
		case key == "context":
			p.ignore(field+".options", o, "labels are the host's")
		case strings.HasSuffix(o, "private"), strings.HasSuffix(o, "slave"), strings.HasSuffix(o, "shared"),
			strings.HasSuffix(o, "unbindable"):
			p.propagation(field, o, m)
		case keys != "" && contains(keys, key) && !strings.ContainsAny(o, ",\x00"):
			p.mountValue(field, in.Type, o)
			m.Options = append(m.Options, o)
		default:
			p.refuse(field+".options", o, "is not known for "+in.Type+" ("+m.Destination+"): remove it")
		}
	}
}

// propagation of a mount that the guest alone has: whatever it is, it stays there.
func (p *problems) propagation(field, o string, m *Mount) {
	switch strings.TrimPrefix(o, "r") {
	case "private", "slave", "shared", "unbindable":
		m.Propagation = o
	default:
		p.refuse(field+".options", o, "is not a propagation")
	}
}

// mountValue refuses numbers that the guest's kernel would refuse late.
func (p *problems) mountValue(field, fstype, o string) {
	key, value, ok := strings.Cut(o, "=")
	if !ok {
		return
	}
	var err error
	switch key {
	// A plain number of 32 bits, as the guest's kernel takes it; -1 is nobody's id.
	case "uid", "gid":
		var id uint64
		if id, err = strconv.ParseUint(value, 10, 32); err == nil {
			p.id(field+".options", uint32(id))
		}
	case "nr_inodes", "max":
		_, err = strconv.ParseUint(strings.TrimRight(value, "kKmMgG"), 10, 64)
	case "mode", "ptmxmode":
		_, err = strconv.ParseUint(value, 8, 32)
	case "size", "nr_blocks":
		_, err = strconv.ParseUint(strings.TrimRight(value, "kKmMgGtTpPeE%"), 0, 64)
	}
	if err != nil {
		p.refuse(field+".options", o, "is not a value that "+fstype+" takes")
	}
}

// contains looks for a whole word in a blank-separated list.
func contains(list, word string) bool {
	return word != "" && !strings.Contains(word, " ") && strings.Contains(" "+list+" ", " "+word+" ")
}
