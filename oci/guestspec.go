// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// guestVersion is one that the guest's runtime knows: crun 1.8 refuses 1.3. No field that is newer
// is passed on.
const guestVersion = "1.0.2"

// GuestInput is what the host's side adds to a workload for the guest. All paths are the guest's,
// but for those in SandboxNamespaces.
type GuestInput struct {
	// ID names the container in the guest; its cgroup is /ID.
	ID string
	// Sources gives, by index into Workload.Mounts, where the guest finds a
	// BindMount. Every BindMount needs one, unless it is in Skip.
	Sources map[int]string
	// Below says, by the same index, that the host has mounts below a BindMount's source. The guest
	// then leaves read-only to the host (WritableBelow).
	Below map[int]bool
	// Skip lists indices into Workload.Mounts that are left out.
	Skip []int
	// Network, IPC, UTS and PID are namespace paths to join. Network empty:
	// the runtime's own. The others empty: a new one, or for a workload that
	// shares the pod's an error.
	Network, IPC, UTS, PID string
	// Hostname is the host's: the name of a workload with a uts namespace of its own and no name.
	Hostname string
	// User is the path of the guest's user namespace, whose map is IDs: a workload has that one or
	// none.
	User string
	IDs  IDMap
	// SandboxPid and SandboxNamespaces are the pod's pid on the host and what its first container
	// named there: a Member may name no others.
	SandboxPid        int
	SandboxNamespaces Namespaces
	// MemoryMax is the ceiling of a container's memory in bytes; 0: none.
	MemoryMax int64
	// Devices gives, by index into Workload.Devices, the guest's number of a
	// HostBlock. Every HostBlock needs one.
	Devices map[int]DeviceNumber
}

// GuestSpec gives the config.json for the guest's runtime. It is made anew from what the guest may
// know: nothing of the host's configuration is in it but what is copied here field by field.
// Annotations do not cross, since crun gives some of them a meaning. root.path is "rootfs". The
// workload is not changed. A namespace or device that the input lacks is ErrFailedPrecondition: a
// fault of the caller's, not of the user's.
func (w *Workload) GuestSpec(in GuestInput) ([]byte, error) {
	if err := w.checkPod(in); err != nil {
		return nil, err
	}
	if err := w.withinCeiling(in.MemoryMax); err != nil {
		return nil, err
	}
	mounts, err := w.guestMounts(in)
	if err != nil {
		return nil, err
	}
	linux, err := w.guestLinux(in)
	if err != nil {
		return nil, err
	}
	out := specs.Spec{
		Version: guestVersion,
		Process: guestProcess(w.spec.Process),
		Root:    &specs.Root{Path: "rootfs", Readonly: w.Rootfs.ReadOnly},
		Mounts:  mounts,
		Linux:   linux,
	}
	// A name belongs to a UTS namespace: a shared one is the pod's and has its name already.
	if in.UTS == "" || !w.Namespaces.UTS.Shared() {
		out.Hostname, out.Domainname = cmp.Or(w.Hostname, in.Hostname), w.Domainname
	}
	return json.Marshal(out)
}

// checkPod refuses namespaces of another pod than the one the workload joins. A Member names its
// pod's by the pid of the pod's process or by the file that the engine keeps; anything else would
// be silently replaced by the pod's own.
func (w *Workload) checkPod(in GuestInput) error {
	var p problems
	// The guest's one user namespace was made with its first container.
	if !w.Namespaces.IDs.IsZero() && !w.Namespaces.IDs.Equal(in.IDs) {
		p.refuse("linux.uidMappings", fmt.Sprint(w.Namespaces.IDs),
			fmt.Sprintf("this guest has another user namespace, %v, and a guest has only one: give the pod, or the container that started "+
				"the guest, the same mappings", in.IDs))
	}
	if w.Role != Member {
		return p.err()
	}
	own := func(kind string, n, pod Namespace) {
		if n.Pid != 0 && n.Pid != in.SandboxPid || n.Pid == 0 && n.Shared() && n.Path != pod.Path {
			p.refuse("linux.namespaces", n.Path,
				fmt.Sprintf("the %s namespace does not belong to the pod, whose pid is %d", kind, in.SandboxPid))
		}
	}
	own("network", w.Namespaces.Network, in.SandboxNamespaces.Network)
	own("pid", w.Namespaces.PID, in.SandboxNamespaces.PID)
	own("ipc", w.Namespaces.IPC, in.SandboxNamespaces.IPC)
	own("uts", w.Namespaces.UTS, in.SandboxNamespaces.UTS)
	own("user", w.Namespaces.User, in.SandboxNamespaces.User)
	return p.err()
}

// guestMounts gives the mounts in their order, which matters where one lies below another. A
// BindMount binds from the guest's path for it.
func (w *Workload) guestMounts(in GuestInput) ([]specs.Mount, error) {
	var out []specs.Mount
	for i, m := range w.Mounts {
		if slices.Contains(in.Skip, i) {
			continue
		}
		g := specs.Mount{Destination: m.Destination, Type: m.Type, Source: cmp.Or(m.Source, m.Type), Options: slices.Clone(m.Options)}
		switch m.Kind {
		case GuestMount:
			if m.Type == "cgroup2" {
				g.Type, g.Source = "cgroup", "cgroup"
			}
		case BindMount:
			g.Type, g.Source = "bind", in.Sources[i]
			if !strings.HasPrefix(g.Source, "/") {
				return nil, fmt.Errorf("mount %q has no source in the guest: %w", m.Destination, errdefs.ErrFailedPrecondition)
			}
			g.Options = append([]string{bindFlag(m)}, g.Options...)
		}
		// The guest's kernel would make mounts below read-only as well. Where they must stay
		// writable, the host's mount alone is read-only.
		if m.ReadOnly && !m.WritableBelow(in.Below[i]) {
			g.Options = append(g.Options, "ro")
		}
		if m.Propagation != "" {
			g.Options = append(g.Options, m.Propagation)
		}
		out = append(out, g)
	}
	return out, nil
}

// bindFlag is the option that makes a mount a bind mount.
func bindFlag(m Mount) string {
	if m.Recursive {
		return "rbind"
	}
	return "bind"
}

// guestLinux copies what of the linux section the guest's runtime honours. Labels, the host's
// cgroup path and what the host enforces by itself stay behind.
func (w *Workload) guestLinux(in GuestInput) (*specs.Linux, error) {
	l := w.spec.Linux
	namespaces, err := w.guestNamespaces(in)
	if err != nil {
		return nil, err
	}
	devices, resources, err := w.guestDevices(in)
	if err != nil {
		return nil, err
	}
	out := &specs.Linux{
		Sysctl:            w.guestSysctls(in),
		Resources:         resources,
		CgroupsPath:       "/" + in.ID,
		Namespaces:        namespaces,
		Devices:           devices,
		Seccomp:           guestSeccomp(l.Seccomp),
		RootfsPropagation: l.RootfsPropagation,
		MaskedPaths:       l.MaskedPaths,
		ReadonlyPaths:     l.ReadonlyPaths,
	}
	out.UIDMappings, out.GIDMappings = mappings(w.Namespaces.IDs.UIDs), mappings(w.Namespaces.IDs.GIDs)
	if l.Personality != nil {
		out.Personality = &specs.LinuxPersonality{Domain: l.Personality.Domain}
	}
	return out, nil
}

// guestNamespaces: mount and cgroup are always new. Engines on cgroup v1 leave the cgroup namespace
// out; without one the workload would read the root's limits under /sys/fs/cgroup. There is no
// network entry unless the caller has a path: the container is then in the network of the guest's
// runtime.
func (w *Workload) guestNamespaces(in GuestInput) ([]specs.LinuxNamespace, error) {
	out := []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.CgroupNamespace}}
	if in.Network != "" {
		out = append(out, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: in.Network})
	}
	for _, ns := range []struct {
		t    specs.LinuxNamespaceType
		want Namespace
		path string
	}{
		{specs.PIDNamespace, w.Namespaces.PID, in.PID},
		{specs.IPCNamespace, w.Namespaces.IPC, in.IPC},
		{specs.UTSNamespace, w.Namespaces.UTS, in.UTS},
	} {
		switch {
		case !ns.want.Shared():
			out = append(out, specs.LinuxNamespace{Type: ns.t})
		case ns.path == "":
			return nil, fmt.Errorf("there is no %s namespace to share: %w", ns.t, errdefs.ErrFailedPrecondition)
		default:
			out = append(out, specs.LinuxNamespace{Type: ns.t, Path: ns.path})
		}
	}
	if !w.Namespaces.IDs.IsZero() {
		out = append(out, specs.LinuxNamespace{Type: specs.UserNamespace, Path: in.User})
	}
	return out, nil
}

// guestSysctls are those that the guest's runtime may set: of namespaces that it makes or joins. It
// refuses net.* without a network namespace path; the agent sets those itself.
func (w *Workload) guestSysctls(in GuestInput) map[string]string {
	var out map[string]string
	for given, value := range w.spec.Linux.Sysctl {
		name := sysctlName(given)
		if ipcSysctl(name) || in.Network != "" && strings.HasPrefix(name, "net.") {
			put(&out, name, value)
		}
	}
	return out
}

// guestDevices gives nodes and rules, with a handed-over disk's number in place of the host's: in
// the guest the host's number may be another disk's.
func (w *Workload) guestDevices(in GuestInput) ([]specs.LinuxDevice, *specs.LinuxResources, error) {
	resources := guestResources(w.spec.Linux.Resources, in.MemoryMax)
	var out []specs.LinuxDevice
	next := 0
	for _, d := range w.spec.Linux.Devices {
		// Every device of the configuration is in Devices, in order: any other was refused.
		dev := w.Devices[next]
		number := dev.Number
		if dev.Kind == HostBlock {
			n, ok := in.Devices[next]
			if !ok {
				return nil, nil, fmt.Errorf("device %q has no number in the guest: %w", dev.Path, errdefs.ErrFailedPrecondition)
			}
			// The rules are a copy: the workload keeps the host's numbers.
			renumber(resources.Devices, dev.Number, n)
			number = n
		}
		next++
		node := specs.LinuxDevice{Path: dev.Path, Type: d.Type, Major: number.Major, Minor: number.Minor, UID: d.UID, GID: d.GID}
		if d.FileMode != nil {
			mode := *d.FileMode & 0o7777
			node.FileMode = &mode
		}
		out = append(out, node)
	}
	return out, resources, nil
}

// renumber changes the rules of one block device from the host's number to the guest's.
func renumber(rules []specs.LinuxDeviceCgroup, host, guest DeviceNumber) {
	for i, r := range rules {
		if r.Type == "b" && !wild(r.Major) && !wild(r.Minor) && *r.Major == host.Major && *r.Minor == host.Minor {
			rules[i].Major, rules[i].Minor = &guest.Major, &guest.Minor
		}
	}
}

// guestSeccomp copies the filter without its listener, which would be a host program.
func guestSeccomp(s *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	if s == nil {
		return nil
	}
	out := &specs.LinuxSeccomp{
		DefaultAction:   s.DefaultAction,
		DefaultErrnoRet: s.DefaultErrnoRet,
		Architectures:   s.Architectures,
		Flags:           s.Flags,
	}
	for _, c := range s.Syscalls {
		g := specs.LinuxSyscall{Names: c.Names, Action: c.Action, ErrnoRet: c.ErrnoRet}
		for _, a := range c.Args {
			g.Args = append(g.Args, specs.LinuxSeccompArg{Index: a.Index, Value: a.Value, ValueTwo: a.ValueTwo, Op: a.Op})
		}
		out.Syscalls = append(out.Syscalls, g)
	}
	return out
}
