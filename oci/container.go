// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// ParseContainer reads the config.json of a container of class process. Like Parse, it refuses
// every field that cannot be honoured by name; the rest goes to the host's OCI runtime, hooks
// included. It is stricter than an OCI runtime: those drop fields that they do not know without a
// word.
func ParseContainer(config []byte, opts Options) (*Workload, error) {
	var spec specs.Spec
	if err := decode(config, &spec); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	var p problems
	w := &Workload{
		Class: ClassProcess, Hostname: spec.Hostname, Domainname: spec.Domainname, Annotations: spec.Annotations, spec: &spec,
	}
	p.version(spec.Version)
	p.platforms(&spec)
	w.role(&p)
	w.root(&p)
	if spec.Process == nil {
		p.refuse("process", nil, "is missing: a container is started with its process")
	} else {
		p.containerProcess("process", spec.Process)
		w.Terminal, w.Args, w.Labels.Process = spec.Process.Terminal, spec.Process.Args, spec.Process.SelinuxLabel
		if name := spec.Process.ApparmorProfile; !engineProfile(name) {
			w.Labels.Profile = name
		}
	}
	w.containerMounts(&p)
	w.settings(opts, &p)
	// An ignored size would be taken for a limit that holds.
	if w.Settings.MemoryMiB != 0 || w.Settings.CPUs != 0 || w.Settings.Machine != "" {
		p.refuse("annotations."+AnnotationPrefix, nil,
			"memory-mib, cpus and machine describe a guest, and class process has no guest: remove them")
	}
	if spec.Linux == nil {
		p.refuse("linux", nil, "is missing: cloister runs Linux containers only")
		return nil, p.err()
	}
	w.containerLinux(&p)
	if err := p.err(); err != nil {
		return nil, err
	}
	w.Ignored = p.ignored
	return w, nil
}

// containerProcess refuses what OCI runtimes drop without a word: crun before 1.9 and runc before
// 1.2 know none of these fields.
func (p *problems) containerProcess(field string, s *specs.Process) {
	p.anyProcess(field, s)
	if len(s.Args) == 0 {
		p.refuse(field+".args", nil, "is empty: name a program")
	}
	if !plainScheduler(s.Scheduler) {
		p.refuse(field+".scheduler", string(s.Scheduler.Policy),
			"not every OCI runtime sets it: remove it, or call chrt or nice in the container")
	}
	if s.IOPriority != nil {
		p.refuse(field+".ioPriority", string(s.IOPriority.Class),
			"not every OCI runtime sets it: use blockIO.weight, or call ionice in the container")
	}
	if a := s.ExecCPUAffinity; a != nil && (a.Initial != "" || a.Final != "") {
		p.refuse(field+".execCPUAffinity", a.Initial+a.Final, "not every OCI runtime sets it: use linux.resources.cpu.cpus")
	}
}

// containerMounts checks the mounts. The OCI runtime makes them; only the sources of bind mounts
// are cloister's to open and to label. Owners that are mapped are noted in Mapped: whether the
// host's OCI runtime maps them is not known here.
func (w *Workload) containerMounts(p *problems) {
	for i, m := range w.spec.Mounts {
		field := fmt.Sprintf("mounts[%d]", i)
		if m.Destination == "" || strings.ContainsRune(m.Destination+m.Source, 0) {
			p.refuse(field+".destination", m.Destination, "is empty, or holds a zero byte")
		}
		if len(m.UIDMappings)+len(m.GIDMappings) > 0 {
			w.Mapped = append(w.Mapped, field+".uidMappings")
		}
		out := Mount{Kind: GuestMount, Type: m.Type, Destination: path.Join("/", m.Destination)}
		if isBind(m) {
			out.Kind, out.Source, out.Purpose = BindMount, m.Source, purpose(w.Role, out.Destination)
			if m.Source == "" {
				p.refuse(field+".source", nil, "is missing")
			}
			p.containerBind(field, m.Options, &out)
			if isCgroup(path.Clean(m.Source), out.Destination) {
				out.Kind = GuestMount // the kernel's own files carry no label of ours
			}
		}
		w.Mounts = append(w.Mounts, out)
	}
}

// containerBind refuses options that a bind mount would drop without a word.
func (p *problems) containerBind(field string, options []string, m *Mount) {
	for _, o := range options {
		switch o {
		case "rbind":
			m.Recursive = true
		case "ro", "rro":
			m.ReadOnly = true
		case "rw", "rrw":
			m.ReadOnly = false
		case "idmap", "ridmap":
			p.refuse(field+".options", o, "not every OCI runtime maps owners of a mount: leave it out, or use class vm")
		case "shared", "rshared":
			p.refuse(field+".options", o, "mounts made in the container would not reach the host ("+m.Destination+
				"), since the shim has a mount namespace of its own: use rslave (HostToContainer) or rprivate")
		default:
			if !contains(flagOptions, o) && !contains(bindOptions, o) && !contains("copy nocopy z Z", o) {
				p.refuse(field+".options", o, "is not known for a bind mount ("+m.Destination+"): remove it")
			}
		}
	}
}

// containerLinux checks the linux section for the host's OCI runtime. What it refuses here is
// either unknown to some of these runtimes, or belongs to the whole host.
func (w *Workload) containerLinux(p *problems) {
	l := w.spec.Linux
	w.CgroupsPath, w.Labels.Mount = l.CgroupsPath, l.MountLabel
	if strings.ContainsRune(l.CgroupsPath, 0) {
		p.refuse("linux.cgroupsPath", l.CgroupsPath, "holds a zero byte")
	}
	w.containerNamespaces(p)
	if l.Resources != nil {
		p.containerResources("linux.resources", l.Resources)
	}
	if !slices.Contains([]string{
		"", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable",
		"runbindable",
	}, l.RootfsPropagation) {
		p.refuse("linux.rootfsPropagation", l.RootfsPropagation, "is not a propagation")
	}
	p.absolute("linux.maskedPaths", l.MaskedPaths)
	p.absolute("linux.readonlyPaths", l.ReadonlyPaths)
	for name := range l.Sysctl {
		if sysctlName(name) == "" || strings.ContainsAny(l.Sysctl[name], "\x00\n") {
			p.refuse("linux.sysctl["+name+"]", l.Sysctl[name], "is not the name or value of a sysctl")
		}
	}
	const late = "not every OCI runtime knows it: remove it"
	if len(l.NetDevices) > 0 {
		p.refuse("linux.netDevices", slices.Sorted(maps.Keys(l.NetDevices)), late)
	}
	if l.IntelRdt != nil {
		p.refuse("linux.intelRdt", l.IntelRdt.ClosID, "is a group of the whole host, which containers do not choose: remove it")
	}
	if m := l.MemoryPolicy; m != nil && (m.Mode != specs.MpolDefault || m.Nodes != "" || len(m.Flags) > 0) {
		p.refuse("linux.memoryPolicy", string(m.Mode), late+", or use linux.resources.cpu.mems")
	}
	if x := l.Personality; x != nil && (len(x.Flags) > 0 || x.Domain != specs.PerLinux && x.Domain != specs.PerLinux32) {
		p.refuse("linux.personality", string(x.Domain), "only LINUX and LINUX32 without flags are known")
	}
	for _, name := range slices.Sorted(maps.Keys(l.TimeOffsets)) {
		if o := l.TimeOffsets[name]; o.Secs != 0 || o.Nanosecs != 0 {
			p.refuse("linux.timeOffsets", name, late)
		}
	}
}

// containerNamespaces checks the namespaces. A type that is not listed is the host's, as OCI has
// it, and is allowed. The mount namespace must be listed: the root file system would otherwise be
// set up among the host's mounts. Paths are those of the host.
func (w *Workload) containerNamespaces(p *problems) {
	seen := map[specs.LinuxNamespaceType]bool{}
	for i, ns := range w.spec.Linux.Namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		if seen[ns.Type] {
			p.refuse(field+".type", string(ns.Type), "is listed twice")
		}
		seen[ns.Type] = true
		if ns.Path != "" && (!path.IsAbs(ns.Path) || strings.ContainsRune(ns.Path, 0)) {
			p.refuse(field+".path", ns.Path, "must be absolute")
		}
		got := Namespace{Path: ns.Path, Pid: procPid(ns.Path, ns.Type)}
		switch ns.Type {
		case specs.NetworkNamespace:
			w.Namespaces.Network = got
		case specs.PIDNamespace:
			w.Namespaces.PID = got
		case specs.IPCNamespace:
			w.Namespaces.IPC = got
		case specs.UTSNamespace:
			w.Namespaces.UTS = got
		case specs.UserNamespace:
			w.Namespaces.User = got
		case specs.MountNamespace, specs.CgroupNamespace:
		default:
			p.refuse(field+".type", string(ns.Type), "is not a namespace that every OCI runtime knows: remove it")
		}
	}
	if !seen[specs.MountNamespace] {
		p.refuse("linux.namespaces", nil,
			"no mount entry means the host's mounts, in which a root file system cannot be set up: list a mount namespace")
	}
	// A user namespace that exists has its map already.
	if l := w.spec.Linux; seen[specs.UserNamespace] && w.Namespaces.User.Path == "" {
		w.Namespaces.IDs = p.idMap("linux", l.UIDMappings, l.GIDMappings)
	} else if !seen[specs.UserNamespace] && len(l.UIDMappings)+len(l.GIDMappings) > 0 {
		p.refuse("linux.uidMappings", nil, "mappings need a user entry under linux.namespaces")
	}
}

// containerResources refuses limits of cgroup v1 alone, which a runtime on v2 drops.
func (p *problems) containerResources(field string, r *specs.LinuxResources) {
	// Values are only checked: the OCI runtime enforces them.
	var seen Resources
	if r.Memory != nil {
		p.memory(field+".memory", r.Memory, &seen)
	}
	if r.CPU != nil {
		p.cpu(field+".cpu", r.CPU, &seen)
	}
	if r.Pids != nil && r.Pids.Limit != nil && *r.Pids.Limit < -1 {
		p.refuse(field+".pids.limit", *r.Pids.Limit, "is below -1")
	}
	if r.BlockIO != nil {
		p.blockIO(field+".blockIO", r.BlockIO)
	}
	if n := r.Network; n != nil && (n.ClassID != nil && *n.ClassID != 0 || len(n.Priorities) > 0) {
		p.refuse(field+".network", nil, "net_cls and net_prio are of cgroup v1: shape traffic on the engine's link")
	}
	for key := range r.Unified {
		if controller, file, ok := strings.Cut(key, "."); !ok || controller == "" || file == "" || strings.ContainsAny(key, "/\x00") {
			p.refuse(field+".unified", key, "is not the name of a cgroup v2 file")
		}
	}
}

// ContainerInput is what the host decides for a container of class process. The spec's own labels,
// sources and cgroup are replaced by it.
type ContainerInput struct {
	Root    string         // absolute path of the root file system
	Sources map[int]string // by index into Workload.Mounts: what a bind mount's source is to be
	// Label is the SELinux label of its processes, MountLabel of the file systems made for it;
	// empty: none.
	Label, MountLabel string
	Profile           string // AppArmor's, of its processes; empty: the engine's
	CgroupsPath       string
	NoDevices         bool // device nodes in volumes cannot be opened
}

// ContainerSpec gives the config.json for the host's OCI runtime: the engine's own, with the labels
// and sources that were decided here. The workload must be ParseContainer's, and is not changed.
// With NoDevices, volumes are nodev, since a device node has the label of its file, whatever it is
// a node of.
func (w *Workload) ContainerSpec(in ContainerInput) ([]byte, error) {
	out, process, linux := *w.spec, *w.spec.Process, *w.spec.Linux
	process.SelinuxLabel, linux.MountLabel, linux.CgroupsPath = in.Label, in.MountLabel, in.CgroupsPath
	if in.Profile != "" {
		process.ApparmorProfile = in.Profile
	}
	linux.TimeOffsets, linux.MemoryPolicy = nil, nil // no more than the defaults
	resources := specs.LinuxResources{}
	if linux.Resources != nil {
		resources = *linux.Resources
	}
	resources.Devices = deniedFirst(resources.Devices)
	linux.Resources = &resources
	process.Scheduler, process.ExecCPUAffinity = nil, nil
	// The version is one that older OCI runtimes accept; what a newer one added has been refused.
	out.Version, out.Process, out.Linux = guestVersion, &process, &linux
	out.Root = &specs.Root{Path: in.Root, Readonly: w.Rootfs.ReadOnly}
	out.Mounts = slices.Clone(w.spec.Mounts)
	for i, source := range in.Sources {
		out.Mounts[i].Source = source
		if in.NoDevices && w.Mounts[i].Purpose == Volume {
			out.Mounts[i].Options = append(slices.Clone(out.Mounts[i].Options), "nodev")
		}
	}
	return json.Marshal(out)
}

// ParseContainerProcess reads the Process of an Exec call in a container of class process. It
// refuses what ParseContainer refuses.
func ParseContainerProcess(data []byte) (*Process, error) {
	var s specs.Process
	if err := decode(data, &s); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	var p problems
	p.containerProcess("process", &s)
	if err := p.err(); err != nil {
		return nil, err
	}
	return &Process{Terminal: s.Terminal, Args: s.Args, Label: s.SelinuxLabel, Ignored: p.ignored, spec: &s}, nil
}

// ContainerProcess gives the JSON of the process for the host's OCI runtime, under a SELinux label
// and in an AppArmor profile; without a profile it is the engine's.
func (p *Process) ContainerProcess(label, profile string) ([]byte, error) {
	out := *p.spec
	out.SelinuxLabel = label
	if profile != "" {
		out.ApparmorProfile = profile
	}
	return json.Marshal(out)
}

// ParseContainerResources checks the LinuxResources of an Update call of a container of class
// process. The OCI runtime gets the bytes as they are.
func ParseContainerResources(data []byte) error {
	var r specs.LinuxResources
	if err := decode(data, &r); err != nil {
		return fmt.Errorf("resources: %w", err)
	}
	var p problems
	p.containerResources("resources", &r)
	return p.err()
}
