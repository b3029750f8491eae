// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// verdict says what becomes of a field.
type verdict int

const (
	guest   verdict = iota + 1 // honoured by the guest's runtime: its config.json changes
	host                       // honoured on the host: the Workload changes
	refused                    // an error names it
	ignored                    // listed in Workload.Ignored with its reason
	nothing                    // changes nothing; why says for what reason
	group                      // only its own fields count
)

// rule is one line of the table: a field of the specification's Go types, what
// becomes of it, and a change of a good configuration that shows it.
type rule struct {
	field   string
	verdict verdict
	on      func(*specs.Spec) // done on both sides of the comparison; may be nil
	set     func(*specs.Spec)
	why     string // of nothing
	names   string // of refused and ignored: how the error names the field
}

func base() *specs.Spec {
	return &specs.Spec{
		Version: "1.3.0",
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/", Capabilities: &specs.LinuxCapabilities{}},
		Root:    &specs.Root{Path: "rootfs"},
		Hooks:   &specs.Hooks{},
		Linux: &specs.Linux{
			Resources: &specs.LinuxResources{
				Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, BlockIO: &specs.LinuxBlockIO{},
				Pids: &specs.LinuxPids{}, Network: &specs.LinuxNetwork{},
			},
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "network"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
			Seccomp: &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow,
				Syscalls:      []specs.LinuxSyscall{{Names: []string{"bpf"}, Action: specs.ActErrno}},
			},
		},
	}
}

func userns(s *specs.Spec) {
	s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
	s.Linux.UIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}, {ContainerID: 20, HostID: 2000, Size: 1}}
	s.Linux.GIDMappings = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}}
}

func mapped(s *specs.Spec) {
	s.Mounts = []specs.Mount{{
		Destination: "/x", Type: "bind", Source: "/y",
		UIDMappings: []specs.LinuxIDMapping{{Size: 1}}, GIDMappings: []specs.LinuxIDMapping{{Size: 1}},
	}}
}

func topRules() []rule {
	return []rule{
		{field: "Spec.Version", verdict: refused, set: func(s *specs.Spec) { s.Version = "2.0" }, names: "ociVersion"},
		{field: "Spec.Process", verdict: group},
		{field: "Spec.Root", verdict: group},
		{field: "Spec.Hostname", verdict: guest, set: func(s *specs.Spec) { s.Hostname = "h" }},
		{field: "Spec.Domainname", verdict: guest, set: func(s *specs.Spec) { s.Domainname = "d" }},
		{field: "Spec.Mounts", verdict: group},
		{field: "Spec.Hooks", verdict: group},
		{field: "Spec.Annotations", verdict: host, set: func(s *specs.Spec) { s.Annotations = map[string]string{"a": "b"} }},
		{field: "Spec.Linux", verdict: group},
		{field: "Spec.Solaris", verdict: refused, set: func(s *specs.Spec) { s.Solaris = &specs.Solaris{} }, names: "solaris"},
		{field: "Spec.Windows", verdict: refused, set: func(s *specs.Spec) { s.Windows = &specs.Windows{} }, names: "windows"},
		{field: "Spec.VM", verdict: refused, set: func(s *specs.Spec) { s.VM = &specs.VM{} }, names: "vm"},
		{field: "Spec.ZOS", verdict: refused, set: func(s *specs.Spec) { s.ZOS = &specs.ZOS{} }, names: "zos"},
		{field: "Spec.FreeBSD", verdict: refused, set: func(s *specs.Spec) { s.FreeBSD = &specs.FreeBSD{} }, names: "freebsd"},

		{field: "Root.Path", verdict: host, set: func(s *specs.Spec) { s.Root.Path = "/mnt" }},
		{field: "Root.Readonly", verdict: guest, set: func(s *specs.Spec) { s.Root.Readonly = true }},

		{
			field: "Mount.Destination", verdict: guest,
			set: func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/x", Type: "tmpfs"}} },
		},
		{field: "Mount.Type", verdict: guest, set: func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/x", Type: "proc"}} }},
		{
			field: "Mount.Source", verdict: host,
			set: func(s *specs.Spec) { s.Mounts = []specs.Mount{{Destination: "/x", Type: "bind", Source: "/y"}} },
		},
		{field: "Mount.Options", verdict: guest, set: func(s *specs.Spec) {
			s.Mounts = []specs.Mount{{Destination: "/x", Type: "tmpfs", Options: []string{"size=1m"}}}
		}},
		{field: "Mount.UIDMappings", verdict: host, on: mapped, set: func(s *specs.Spec) { s.Mounts[0].UIDMappings[0].HostID = 7 }},
		{field: "Mount.GIDMappings", verdict: host, on: mapped, set: func(s *specs.Spec) { s.Mounts[0].GIDMappings[0].HostID = 7 }},

		//nolint:staticcheck // engines still send it
		{field: "Hooks.Prestart", verdict: host, set: func(s *specs.Spec) { s.Hooks.Prestart = []specs.Hook{{Path: "/h"}} }},
		{field: "Hooks.CreateRuntime", verdict: host, set: func(s *specs.Spec) { s.Hooks.CreateRuntime = []specs.Hook{{Path: "/h"}} }},
		{
			field: "Hooks.CreateContainer", verdict: refused, names: "hooks.createContainer",
			set: func(s *specs.Spec) { s.Hooks.CreateContainer = []specs.Hook{{Path: "/h"}} },
		},
		{
			field: "Hooks.StartContainer", verdict: refused, names: "hooks.startContainer",
			set: func(s *specs.Spec) { s.Hooks.StartContainer = []specs.Hook{{Path: "/h"}} },
		},
		{field: "Hooks.Poststart", verdict: host, set: func(s *specs.Spec) { s.Hooks.Poststart = []specs.Hook{{Path: "/h"}} }},
		{field: "Hooks.Poststop", verdict: host, set: func(s *specs.Spec) { s.Hooks.Poststop = []specs.Hook{{Path: "/h"}} }},
		{field: "Hook.Path", verdict: host, set: func(s *specs.Spec) { s.Hooks.Poststop = []specs.Hook{{Path: "/h"}} }},
		{
			field: "Hook.Args", verdict: host,
			set: func(s *specs.Spec) { s.Hooks.Poststop = []specs.Hook{{Path: "/h", Args: []string{"h"}}} },
		},
		{
			field: "Hook.Env", verdict: host,
			set: func(s *specs.Spec) { s.Hooks.Poststop = []specs.Hook{{Path: "/h", Env: []string{"A=b"}}} },
		},
		{field: "Hook.Timeout", verdict: host, set: func(s *specs.Spec) { s.Hooks.Poststop = []specs.Hook{{Path: "/h", Timeout: new(3)}} }},
	}
}

func processRules() []rule {
	caps := []string{"CAP_CHOWN"}
	return []rule{
		{field: "Process.Terminal", verdict: guest, set: func(s *specs.Spec) { s.Process.Terminal = true }},
		{field: "Process.ConsoleSize", verdict: group},
		{field: "Box.Height", verdict: guest, set: func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Height: 1} }},
		{field: "Box.Width", verdict: guest, set: func(s *specs.Spec) { s.Process.ConsoleSize = &specs.Box{Width: 1} }},
		{field: "Process.User", verdict: group},
		{field: "User.UID", verdict: guest, set: func(s *specs.Spec) { s.Process.User.UID = 7 }},
		{field: "User.GID", verdict: guest, set: func(s *specs.Spec) { s.Process.User.GID = 7 }},
		{field: "User.Umask", verdict: guest, set: func(s *specs.Spec) { s.Process.User.Umask = new(uint32(7)) }},
		{field: "User.AdditionalGids", verdict: guest, set: func(s *specs.Spec) { s.Process.User.AdditionalGids = []uint32{7} }},
		{
			field: "User.Username", verdict: refused, names: "process.user.username",
			set: func(s *specs.Spec) { s.Process.User.Username = "x" },
		},
		{field: "Process.Args", verdict: guest, set: func(s *specs.Spec) { s.Process.Args = []string{"x"} }},
		{
			field: "Process.CommandLine", verdict: refused, names: "process.commandLine",
			set: func(s *specs.Spec) { s.Process.CommandLine = "x" },
		},
		{field: "Process.Env", verdict: guest, set: func(s *specs.Spec) { s.Process.Env = []string{"A=b"} }},
		{field: "Process.Cwd", verdict: guest, set: func(s *specs.Spec) { s.Process.Cwd = "/tmp" }},
		{field: "Process.Capabilities", verdict: group},
		{field: "LinuxCapabilities.Bounding", verdict: guest, set: func(s *specs.Spec) { s.Process.Capabilities.Bounding = caps }},
		{field: "LinuxCapabilities.Effective", verdict: guest, set: func(s *specs.Spec) { s.Process.Capabilities.Effective = caps }},
		{field: "LinuxCapabilities.Inheritable", verdict: guest, set: func(s *specs.Spec) { s.Process.Capabilities.Inheritable = caps }},
		{field: "LinuxCapabilities.Permitted", verdict: guest, set: func(s *specs.Spec) { s.Process.Capabilities.Permitted = caps }},
		{field: "LinuxCapabilities.Ambient", verdict: guest, set: func(s *specs.Spec) { s.Process.Capabilities.Ambient = caps }},
		{field: "Process.Rlimits", verdict: group},
		{
			field: "POSIXRlimit.Type", verdict: guest,
			set: func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU"}} },
		},
		{
			field: "POSIXRlimit.Hard", verdict: guest,
			set: func(s *specs.Spec) { s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Hard: 2}} },
		},
		{field: "POSIXRlimit.Soft", verdict: guest, set: func(s *specs.Spec) {
			s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_CPU", Hard: 2, Soft: 1}}
		}},
		{field: "Process.NoNewPrivileges", verdict: guest, set: func(s *specs.Spec) { s.Process.NoNewPrivileges = true }},
		{
			field: "Process.ApparmorProfile", verdict: ignored, names: "process.apparmorProfile",
			set: func(s *specs.Spec) { s.Process.ApparmorProfile = "docker-default" },
		},
		{field: "Process.OOMScoreAdj", verdict: guest, set: func(s *specs.Spec) { s.Process.OOMScoreAdj = new(5) }},
		{field: "Process.Scheduler", verdict: group},
		{
			field: "Scheduler.Policy", verdict: refused, names: "process.scheduler",
			set: func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch} },
		},
		{
			field: "Scheduler.Nice", verdict: refused, names: "process.scheduler",
			set: func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Nice: 1} },
		},
		{
			field: "Scheduler.Priority", verdict: refused, names: "process.scheduler",
			set: func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Priority: 1} },
		},
		{field: "Scheduler.Flags", verdict: refused, names: "process.scheduler", set: func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Flags: []specs.LinuxSchedulerFlag{specs.SchedFlagReclaim}}
		}},
		{
			field: "Scheduler.Runtime", verdict: refused, names: "process.scheduler",
			set: func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Runtime: 1} },
		},
		{
			field: "Scheduler.Deadline", verdict: refused, names: "process.scheduler",
			set: func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Deadline: 1} },
		},
		{
			field: "Scheduler.Period", verdict: refused, names: "process.scheduler",
			set: func(s *specs.Spec) { s.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedOther, Period: 1} },
		},
		{field: "Process.SelinuxLabel", verdict: host, set: func(s *specs.Spec) { s.Process.SelinuxLabel = "u:r:t:s0" }},
		{field: "Process.IOPriority", verdict: group},
		{field: "LinuxIOPriority.Class", verdict: refused, names: "process.ioPriority", set: func(s *specs.Spec) {
			s.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE}
		}},
		{
			field: "LinuxIOPriority.Priority", verdict: refused, names: "process.ioPriority",
			set: func(s *specs.Spec) { s.Process.IOPriority = &specs.LinuxIOPriority{Priority: 1} },
		},
		{field: "Process.ExecCPUAffinity", verdict: group},
		{
			field: "CPUAffinity.Initial", verdict: refused, names: "process.execCPUAffinity",
			set: func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0"} },
		},
		{
			field: "CPUAffinity.Final", verdict: refused, names: "process.execCPUAffinity",
			set: func(s *specs.Spec) { s.Process.ExecCPUAffinity = &specs.CPUAffinity{Final: "0"} },
		},
	}
}

func linuxRules() []rule {
	device := func(s *specs.Spec) {
		s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/fuse", Type: "c", Major: 10, Minor: 229}}
	}
	change := func(f func(*specs.LinuxDevice)) func(*specs.Spec) {
		return func(s *specs.Spec) { f(&s.Linux.Devices[0]) }
	}
	return []rule{
		{field: "Linux.UIDMappings", verdict: guest, set: userns},
		{field: "Linux.GIDMappings", verdict: guest, set: userns},
		{
			field: "LinuxIDMapping.ContainerID", verdict: guest, on: userns,
			set: func(s *specs.Spec) { s.Linux.UIDMappings[1].ContainerID = 15 },
		},
		{field: "LinuxIDMapping.HostID", verdict: guest, on: userns, set: func(s *specs.Spec) { s.Linux.GIDMappings[0].HostID = 5 }},
		{field: "LinuxIDMapping.Size", verdict: guest, on: userns, set: func(s *specs.Spec) { s.Linux.UIDMappings[0].Size = 5 }},
		{field: "Linux.Sysctl", verdict: guest, set: func(s *specs.Spec) { s.Linux.Sysctl = map[string]string{"kernel.shmmax": "1"} }},
		{field: "Linux.Resources", verdict: group},
		{field: "Linux.CgroupsPath", verdict: host, set: func(s *specs.Spec) { s.Linux.CgroupsPath = "/a/b" }},
		{field: "Linux.Namespaces", verdict: group},
		{field: "LinuxNamespace.Type", verdict: refused, names: "linux.namespaces[5].type", set: func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "x"})
		}},
		{field: "LinuxNamespace.Path", verdict: host, set: func(s *specs.Spec) { s.Linux.Namespaces[1].Path = "/run/netns/a" }},
		{field: "Linux.Devices", verdict: group},
		{field: "LinuxDevice.Path", verdict: guest, on: device, set: change(func(d *specs.LinuxDevice) { d.Path = "/x" })},
		{field: "LinuxDevice.Type", verdict: guest, on: device, set: change(func(d *specs.LinuxDevice) { d.Type = "u" })},
		{field: "LinuxDevice.Major", verdict: guest, on: device, set: change(func(d *specs.LinuxDevice) { d.Major, d.Minor = 1, 3 })},
		{field: "LinuxDevice.Minor", verdict: guest, on: device, set: change(func(d *specs.LinuxDevice) { d.Minor, d.Major = 0, 5 })},
		{
			field: "LinuxDevice.FileMode", verdict: guest, on: device,
			set: change(func(d *specs.LinuxDevice) { d.FileMode = new(os.FileMode(0o600)) }),
		},
		{field: "LinuxDevice.UID", verdict: guest, on: device, set: change(func(d *specs.LinuxDevice) { d.UID = new(uint32(4)) })},
		{field: "LinuxDevice.GID", verdict: guest, on: device, set: change(func(d *specs.LinuxDevice) { d.GID = new(uint32(4)) })},
		{
			field: "Linux.NetDevices", verdict: refused, names: "linux.netDevices",
			set: func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth1": {}} },
		},
		{field: "Linux.RootfsPropagation", verdict: guest, set: func(s *specs.Spec) { s.Linux.RootfsPropagation = "slave" }},
		{field: "Linux.MaskedPaths", verdict: guest, set: func(s *specs.Spec) { s.Linux.MaskedPaths = []string{"/x"} }},
		{field: "Linux.ReadonlyPaths", verdict: guest, set: func(s *specs.Spec) { s.Linux.ReadonlyPaths = []string{"/x"} }},
		{field: "Linux.MountLabel", verdict: host, set: func(s *specs.Spec) { s.Linux.MountLabel = "u:r:t:s0" }},
		{
			field: "Linux.IntelRdt", verdict: refused, names: "linux.intelRdt",
			set: func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} },
		},
		{field: "Linux.MemoryPolicy", verdict: group},
		{
			field: "LinuxMemoryPolicy.Mode", verdict: refused, names: "linux.memoryPolicy",
			set: func(s *specs.Spec) { s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind} },
		},
		{field: "LinuxMemoryPolicy.Nodes", verdict: refused, names: "linux.memoryPolicy", set: func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolDefault, Nodes: "0"}
		}},
		{field: "LinuxMemoryPolicy.Flags", verdict: refused, names: "linux.memoryPolicy", set: func(s *specs.Spec) {
			s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{
				Mode:  specs.MpolDefault,
				Flags: []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes},
			}
		}},
		{field: "Linux.Personality", verdict: group},
		{
			field: "LinuxPersonality.Domain", verdict: guest,
			set: func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32} },
		},
		{field: "LinuxPersonality.Flags", verdict: refused, names: "linux.personality", set: func(s *specs.Spec) {
			s.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux, Flags: []specs.LinuxPersonalityFlag{"x"}}
		}},
		{field: "Linux.TimeOffsets", verdict: group},
		{
			field: "LinuxTimeOffset.Secs", verdict: refused, names: "linux.timeOffsets",
			set: func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Secs: 1}} },
		},
		{field: "LinuxTimeOffset.Nanosecs", verdict: refused, names: "linux.timeOffsets", set: func(s *specs.Spec) {
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {Nanosecs: 1}}
		}},
		{field: "Linux.Seccomp", verdict: group},
		{field: "LinuxSeccomp.DefaultAction", verdict: guest, set: func(s *specs.Spec) { s.Linux.Seccomp.DefaultAction = specs.ActLog }},
		{
			field: "LinuxSeccomp.DefaultErrnoRet", verdict: guest,
			set: func(s *specs.Spec) { s.Linux.Seccomp.DefaultErrnoRet = new(uint(1)) },
		},
		{
			field: "LinuxSeccomp.Architectures", verdict: guest,
			set: func(s *specs.Spec) { s.Linux.Seccomp.Architectures = []specs.Arch{specs.ArchX86} },
		},
		{
			field: "LinuxSeccomp.Flags", verdict: guest,
			set: func(s *specs.Spec) { s.Linux.Seccomp.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog} },
		},
		{
			field: "LinuxSeccomp.ListenerPath", verdict: refused, names: "linux.seccomp.listenerPath",
			set: func(s *specs.Spec) { s.Linux.Seccomp.ListenerPath = "/x" },
		},
		{
			field: "LinuxSeccomp.ListenerMetadata", verdict: refused, names: "linux.seccomp.listenerPath",
			set: func(s *specs.Spec) { s.Linux.Seccomp.ListenerMetadata = "x" },
		},
		{field: "LinuxSeccomp.Syscalls", verdict: group},
		{field: "LinuxSyscall.Names", verdict: guest, set: func(s *specs.Spec) { s.Linux.Seccomp.Syscalls[0].Names = []string{"x"} }},
		{field: "LinuxSyscall.Action", verdict: guest, set: func(s *specs.Spec) { s.Linux.Seccomp.Syscalls[0].Action = specs.ActLog }},
		{field: "LinuxSyscall.ErrnoRet", verdict: guest, set: func(s *specs.Spec) { s.Linux.Seccomp.Syscalls[0].ErrnoRet = new(uint(1)) }},
		{field: "LinuxSyscall.Args", verdict: group},
		{field: "LinuxSeccompArg.Index", verdict: guest, set: arg(specs.LinuxSeccompArg{Index: 1})},
		{field: "LinuxSeccompArg.Value", verdict: guest, set: arg(specs.LinuxSeccompArg{Value: 1})},
		{field: "LinuxSeccompArg.ValueTwo", verdict: guest, set: arg(specs.LinuxSeccompArg{ValueTwo: 1})},
		{field: "LinuxSeccompArg.Op", verdict: guest, set: arg(specs.LinuxSeccompArg{Op: specs.OpEqualTo})},
	}
}

func arg(a specs.LinuxSeccompArg) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Linux.Seccomp.Syscalls[0].Args = []specs.LinuxSeccompArg{a} }
}

func resourceRules() []rule {
	res := func(f func(*specs.LinuxResources)) func(*specs.Spec) {
		return func(s *specs.Spec) { f(s.Linux.Resources) }
	}
	memory := func(m specs.LinuxMemory) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Resources.Memory = &m }
	}
	cpu := func(c specs.LinuxCPU) func(*specs.Spec) { return func(s *specs.Spec) { s.Linux.Resources.CPU = &c } }
	io := func(b specs.LinuxBlockIO) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Resources.BlockIO = &b }
	}
	device := func(d specs.LinuxDeviceCgroup) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{d} }
	}
	throttle := []specs.LinuxThrottleDevice{{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 8, Minor: 1}, Rate: 9}}
	weight := specs.LinuxWeightDevice{LinuxBlockIODevice: specs.LinuxBlockIODevice{Major: 8, Minor: 1}, Weight: new(uint16(20))}
	leaf := specs.LinuxWeightDevice{LeafWeight: new(uint16(20))}
	prefix := "linux.resources."
	return []rule{
		{field: "LinuxResources.Devices", verdict: group},
		{field: "LinuxDeviceCgroup.Allow", verdict: guest, set: device(specs.LinuxDeviceCgroup{Allow: true, Type: "a", Access: "rwm"})},
		{field: "LinuxDeviceCgroup.Type", verdict: guest, set: device(specs.LinuxDeviceCgroup{Type: "c"})},
		{field: "LinuxDeviceCgroup.Major", verdict: guest, set: device(specs.LinuxDeviceCgroup{Type: "c", Major: new(int64(1))})},
		{field: "LinuxDeviceCgroup.Minor", verdict: guest, set: device(specs.LinuxDeviceCgroup{Type: "c", Minor: new(int64(1))})},
		{field: "LinuxDeviceCgroup.Access", verdict: guest, set: device(specs.LinuxDeviceCgroup{Type: "c", Access: "r"})},
		{field: "LinuxResources.Memory", verdict: group},
		{field: "LinuxMemory.Limit", verdict: guest, set: memory(specs.LinuxMemory{Limit: new(int64(1 << 26))})},
		{field: "LinuxMemory.Reservation", verdict: guest, set: memory(specs.LinuxMemory{Reservation: new(int64(1 << 20))})},
		{field: "LinuxMemory.Swap", verdict: host, set: memory(specs.LinuxMemory{Swap: new(int64(1 << 20))})},
		{
			field: "LinuxMemory.Kernel", verdict: refused, names: prefix + "memory.kernel",
			set: memory(specs.LinuxMemory{Kernel: new(int64(1))}), //nolint:staticcheck // still in the types
		},
		{
			field: "LinuxMemory.KernelTCP", verdict: refused, names: prefix + "memory.kernelTCP",
			set: memory(specs.LinuxMemory{KernelTCP: new(int64(1))}),
		},
		{
			field: "LinuxMemory.Swappiness", verdict: ignored, names: prefix + "memory.swappiness",
			set: memory(specs.LinuxMemory{Swappiness: new(uint64(1))}),
		},
		{
			field: "LinuxMemory.DisableOOMKiller", verdict: refused, names: prefix + "memory.disableOOMKiller",
			set: memory(specs.LinuxMemory{DisableOOMKiller: new(true)}),
		},
		{
			field: "LinuxMemory.UseHierarchy", verdict: ignored, names: prefix + "memory.useHierarchy",
			set: memory(specs.LinuxMemory{UseHierarchy: new(false)}),
		},
		{field: "LinuxMemory.CheckBeforeUpdate", verdict: guest, set: memory(specs.LinuxMemory{CheckBeforeUpdate: new(true)})},
		{field: "LinuxResources.CPU", verdict: group},
		{field: "LinuxCPU.Shares", verdict: guest, set: cpu(specs.LinuxCPU{Shares: new(uint64(512))})},
		{field: "LinuxCPU.Quota", verdict: guest, set: cpu(specs.LinuxCPU{Quota: new(int64(5000))})},
		{field: "LinuxCPU.Burst", verdict: guest, set: cpu(specs.LinuxCPU{Burst: new(uint64(5000))})},
		{field: "LinuxCPU.Period", verdict: guest, set: cpu(specs.LinuxCPU{Period: new(uint64(5000))})},
		{
			field: "LinuxCPU.RealtimeRuntime", verdict: refused, names: prefix + "cpu.realtimeRuntime",
			set: cpu(specs.LinuxCPU{RealtimeRuntime: new(int64(1))}),
		},
		{
			field: "LinuxCPU.RealtimePeriod", verdict: refused, names: prefix + "cpu.realtimePeriod",
			set: cpu(specs.LinuxCPU{RealtimePeriod: new(uint64(1))}),
		},
		{field: "LinuxCPU.Cpus", verdict: host, set: cpu(specs.LinuxCPU{Cpus: "0"})},
		{field: "LinuxCPU.Mems", verdict: host, set: cpu(specs.LinuxCPU{Mems: "0"})},
		{field: "LinuxCPU.Idle", verdict: guest, set: cpu(specs.LinuxCPU{Idle: new(int64(1))})},
		{field: "LinuxResources.Pids", verdict: group},
		{field: "LinuxPids.Limit", verdict: guest, set: res(func(r *specs.LinuxResources) { r.Pids.Limit = new(int64(5)) })},
		{field: "LinuxResources.BlockIO", verdict: group},
		{field: "LinuxBlockIO.Weight", verdict: host, set: io(specs.LinuxBlockIO{Weight: new(uint16(20))})},
		{
			field: "LinuxBlockIO.LeafWeight", verdict: refused, names: prefix + "blockIO.leafWeight",
			set: io(specs.LinuxBlockIO{LeafWeight: new(uint16(20))}),
		},
		{field: "LinuxBlockIO.WeightDevice", verdict: group},
		{field: "LinuxWeightDevice.LinuxBlockIODevice", verdict: group},
		{field: "LinuxWeightDevice.Weight", verdict: host, set: io(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{weight}})},
		{
			field: "LinuxWeightDevice.LeafWeight", verdict: refused,
			names: prefix + "blockIO.weightDevice[0].leafWeight",
			set:   io(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{leaf}}),
		},
		{field: "LinuxBlockIODevice.Major", verdict: host, set: io(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{weight}})},
		{field: "LinuxBlockIODevice.Minor", verdict: host, set: io(specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{weight}})},
		{field: "LinuxBlockIO.ThrottleReadBpsDevice", verdict: host, set: io(specs.LinuxBlockIO{ThrottleReadBpsDevice: throttle})},
		{field: "LinuxBlockIO.ThrottleWriteBpsDevice", verdict: host, set: io(specs.LinuxBlockIO{ThrottleWriteBpsDevice: throttle})},
		{field: "LinuxBlockIO.ThrottleReadIOPSDevice", verdict: host, set: io(specs.LinuxBlockIO{ThrottleReadIOPSDevice: throttle})},
		{field: "LinuxBlockIO.ThrottleWriteIOPSDevice", verdict: host, set: io(specs.LinuxBlockIO{ThrottleWriteIOPSDevice: throttle})},
		{field: "LinuxThrottleDevice.LinuxBlockIODevice", verdict: group},
		{field: "LinuxThrottleDevice.Rate", verdict: host, set: io(specs.LinuxBlockIO{ThrottleReadBpsDevice: throttle})},
		{field: "LinuxResources.HugepageLimits", verdict: group},
		{field: "LinuxHugepageLimit.Pagesize", verdict: nothing, why: "only says what Limit is about"},
		{field: "LinuxHugepageLimit.Limit", verdict: ignored, names: prefix + "hugepageLimits[0]", set: res(func(r *specs.LinuxResources) {
			r.HugepageLimits = []specs.LinuxHugepageLimit{{Pagesize: "2MB", Limit: 1}}
		})},
		{field: "LinuxResources.Network", verdict: group},
		{
			field: "LinuxNetwork.ClassID", verdict: refused, names: prefix + "network",
			set: res(func(r *specs.LinuxResources) { r.Network.ClassID = new(uint32(1)) }),
		},
		{field: "LinuxNetwork.Priorities", verdict: group},
		{
			field: "LinuxInterfacePriority.Name", verdict: refused, names: prefix + "network",
			set: res(func(r *specs.LinuxResources) { r.Network.Priorities = []specs.LinuxInterfacePriority{{Name: "x"}} }),
		},
		{
			field: "LinuxInterfacePriority.Priority", verdict: refused, names: prefix + "network",
			set: res(func(r *specs.LinuxResources) { r.Network.Priorities = []specs.LinuxInterfacePriority{{Priority: 1}} }),
		},
		{
			field: "LinuxResources.Rdma", verdict: refused, names: prefix + "rdma",
			set: res(func(r *specs.LinuxResources) { r.Rdma = map[string]specs.LinuxRdma{"mlx": {}} }),
		},
		{
			field: "LinuxResources.Unified", verdict: guest,
			set: res(func(r *specs.LinuxResources) { r.Unified = map[string]string{"memory.high": "1"} }),
		},
	}
}

func rules() []rule {
	return append(append(append(topRules(), processRules()...), linuxRules()...), resourceRules()...)
}

// TestFieldsAreListed fails when the specification has a field that the table
// does not know, and the reverse.
func TestFieldsAreListed(t *testing.T) {
	known := map[string]verdict{}
	for _, r := range rules() {
		if _, twice := known[r.field]; twice {
			t.Errorf("%s is listed twice", r.field)
		}
		known[r.field] = r.verdict
	}
	seen := map[string]bool{}
	done := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(typ reflect.Type) {
		switch typ.Kind() {
		case reflect.Pointer, reflect.Slice, reflect.Map, reflect.Array:
			walk(typ.Elem())
			return
		case reflect.Struct:
		default:
			return
		}
		if done[typ] {
			return
		}
		done[typ] = true
		for f := range typ.Fields() {
			name := typ.Name() + "." + f.Name
			v, ok := known[name]
			if !ok {
				t.Errorf("field %s of the specification is not in the table: decide what becomes of it", name)
			}
			seen[name] = true
			if v != refused {
				walk(f.Type)
			}
		}
	}
	walk(reflect.TypeFor[specs.Spec]())
	for name := range known {
		if !seen[name] {
			t.Errorf("the table lists %s, which the specification does not have", name)
		}
	}
}

// outcome parses a configuration and gives what each side gets of it.
func outcome(t *testing.T, s *specs.Spec) (w *Workload, hostSide, guestSide string, err error) {
	t.Helper()
	data, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	w, err = Parse(data, Options{GuestDevices: []GuestDevice{Fuse}})
	if err != nil {
		return nil, "", "", err
	}
	plain := *w
	plain.spec, plain.Ignored = nil, nil
	h, err := json.Marshal(plain) //nolint:musttag // to compare, not to keep
	if err != nil {
		t.Fatal(err)
	}
	g, err := w.GuestSpec(GuestInput{ID: "c", Network: "/proc/1/ns/net", IDs: w.Namespaces.IDs, Sources: map[int]string{0: "/s"}})
	if err != nil {
		t.Fatal(err)
	}
	return w, string(h), string(g), nil
}

// TestFields shows for each field of the table that what it says is so.
func TestFields(t *testing.T) {
	for _, r := range rules() {
		if r.verdict == group {
			continue
		}
		if r.verdict == nothing {
			if r.why == "" {
				t.Errorf("%s changes nothing, and the table does not say why", r.field)
			}
			continue
		}
		t.Run(r.field, func(t *testing.T) {
			s := base()
			if r.on != nil {
				r.on(s)
			}
			_, baseHost, baseGuest, err := outcome(t, s)
			if err != nil {
				t.Fatal(err)
			}
			r.set(s)
			w, h, g, err := outcome(t, s)
			if r.verdict == refused {
				unsupported, ok := errors.AsType[*UnsupportedError](err)
				if !ok || !errors.Is(err, errdefs.ErrInvalidArgument) || !names(unsupported.Problems, r.names) {
					t.Fatalf("Parse error = %v, want one that names %s", err, r.names)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			switch {
			case r.verdict == guest && g == baseGuest:
				t.Errorf("the guest's configuration does not show %s", r.field)
			case r.verdict == host && h == baseHost:
				t.Errorf("the workload does not show %s", r.field)
			case r.verdict == ignored && !names(w.Ignored, r.names):
				t.Errorf("Ignored = %v, want %s", w.Ignored, r.names)
			}
		})
	}
}

func names(list []Problem, field string) bool {
	for _, p := range list {
		if p.Field == field || strings.HasPrefix(p.Field, field+"[") {
			return p.Text != ""
		}
	}
	return false
}
