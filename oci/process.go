// SPDX-License-Identifier: Apache-2.0

package oci

import (
	"encoding/json"
	"fmt"
	"path"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
)

// Process is a checked process of an Exec call. It is read only.
type Process struct {
	Terminal bool
	Args     []string
	Label    string // SELinux label asked for; has no meaning in the guest
	Ignored  []Problem

	spec *specs.Process
}

// ParseProcess reads the Process of an Exec call. It refuses what Parse refuses of a first process:
// an exec must not get more than its container.
func ParseProcess(data []byte, _ Options) (*Process, error) {
	var s specs.Process
	if err := decode(data, &s); err != nil {
		return nil, fmt.Errorf("process: %w", err)
	}
	var p problems
	p.process("process", &s)
	if len(s.Args) == 0 {
		p.refuse("process.args", nil, "is empty: name a program")
	}
	if err := p.err(); err != nil {
		return nil, err
	}
	return &Process{Terminal: s.Terminal, Args: s.Args, Label: s.SelinuxLabel, Ignored: p.ignored, spec: &s}, nil
}

// GuestProcess gives the JSON of the process for the guest's runtime, built field by field as
// GuestSpec is.
func (p *Process) GuestProcess() ([]byte, error) {
	return json.Marshal(guestProcess(p.spec))
}

// process checks the container's first process.
func (w *Workload) process(p *problems) {
	s := w.spec.Process
	if s == nil {
		p.refuse("process", nil, "is missing: a container is started with its process")
		return
	}
	p.process("process", s)
	if len(s.Args) == 0 && w.Role != Sandbox {
		p.refuse("process.args", nil, "is empty: name a program")
	}
	w.Terminal, w.Args = s.Terminal, s.Args
	w.Labels.Process = s.SelinuxLabel
}

// process checks a process of class vm. Capabilities that the guest's kernel does not know are
// ignored, since it cannot grant them. All others are allowed: the guest is the boundary.
func (p *problems) process(field string, s *specs.Process) {
	p.anyProcess(field, s)
	switch name := s.ApparmorProfile; {
	case name == "", name == "unconfined":
	case engineProfile(name):
		p.ignore(field+".apparmorProfile", name, "the guest's kernel has no AppArmor; the machine is the boundary")
	default:
		p.refuse(field+".apparmorProfile", name, "the guest's kernel has no AppArmor: leave the profile out, or unconfined")
	}
	p.scheduling(field, s)
	if s.Capabilities != nil {
		_, unknown := guestCapabilities(s.Capabilities)
		for _, c := range unknown {
			p.ignore(field+".capabilities", c, "the guest's kernel does not know it and cannot grant it")
		}
	}
}

// anyProcess checks what a process of either class must have. The kernel or the OCI runtime would
// refuse most of it too, but late and without the field's name.
func (p *problems) anyProcess(field string, s *specs.Process) {
	p.processPlatform(field, s)
	if s.User.Umask != nil && *s.User.Umask > 0o777 {
		p.refuse(field+".user.umask", *s.User.Umask, "is above 0777")
	}
	p.id(field+".user.uid", s.User.UID)
	p.id(field+".user.gid", s.User.GID)
	for i, gid := range s.User.AdditionalGids {
		p.id(fmt.Sprintf("%s.user.additionalGids[%d]", field, i), gid)
	}
	if !path.IsAbs(s.Cwd) || strings.ContainsRune(s.Cwd, 0) {
		p.refuse(field+".cwd", s.Cwd, "must be absolute")
	}
	for _, list := range [][]string{s.Args, s.Env} {
		if i := slices.IndexFunc(list, func(a string) bool { return strings.ContainsRune(a, 0) }); i >= 0 {
			p.refuse(field, list[i], "args and env hold no zero bytes")
		}
	}
	if n := s.OOMScoreAdj; n != nil && (*n < -1000 || *n > 1000) {
		p.refuse(field+".oomScoreAdj", *n, "is outside of -1000 to 1000")
	}
	for i, r := range s.Rlimits {
		f := fmt.Sprintf("%s.rlimits[%d]", field, i)
		if !knownRlimit(r.Type) {
			p.refuse(f+".type", r.Type, "is not a limit of Linux")
		}
		if r.Soft > r.Hard {
			p.refuse(f+".soft", r.Soft, "is above hard")
		}
	}
}

// noID is -1, which setresuid(2), setresgid(2) and chown(2) take as "leave it as it is": the
// process would stay root.
const noID = 1<<32 - 1

// id refuses a user or group that the kernel cannot set.
func (p *problems) id(field string, id uint32) {
	if id == noID {
		p.refuse(field, id, "is -1, which the kernel takes as \"no change\": use 0 to 4294967294")
	}
}

// processPlatform refuses what names a program or a user in another platform's way.
func (p *problems) processPlatform(field string, s *specs.Process) {
	if s.CommandLine != "" {
		p.refuse(field+".commandLine", s.CommandLine, "is of another platform: use args")
	}
	if s.User.Username != "" {
		p.refuse(field+".user.username", s.User.Username, "is of another platform: use uid and gid")
	}
}

// engineProfile tells the profiles that engines give to every container of an
// AppArmor host unasked from those that a user has chosen.
func engineProfile(name string) bool {
	return name == "docker-default" || name == "cri-containerd.apparmor.d" || name == "nerdctl-default" ||
		name == "crio-default" || strings.HasPrefix(name, "containers-default-")
}

// scheduling refuses what the guest's runtime would drop without a word.
func (p *problems) scheduling(field string, s *specs.Process) {
	if !plainScheduler(s.Scheduler) {
		p.refuse(field+".scheduler", string(s.Scheduler.Policy),
			"the guest's runtime cannot set it: remove it, or call chrt or nice in the container")
	}
	if s.IOPriority != nil {
		p.refuse(field+".ioPriority", string(s.IOPriority.Class),
			"orders disks of the host, which a guest does not have: use blockIO.weight")
	}
	if a := s.ExecCPUAffinity; a != nil && (a.Initial != "" || a.Final != "") {
		p.refuse(field+".execCPUAffinity", a.Initial+a.Final, "names CPUs of the host: use linux.resources.cpu.cpus")
	}
}

// plainScheduler says that a scheduler asks for nothing but the kernel's default.
func plainScheduler(c *specs.Scheduler) bool {
	return c == nil || c.Policy == specs.SchedOther && c.Nice == 0 && c.Priority == 0 && len(c.Flags) == 0 &&
		c.Runtime == 0 && c.Deadline == 0 && c.Period == 0
}

// knownRlimit is the list of getrlimit(2).
func knownRlimit(t string) bool {
	return slices.Contains([]string{
		"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE",
		"RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
	}, t)
}

// capabilities: include/uapi/linux/capability.h, complete as of Linux 6.12.
const capabilities = "CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_FSETID CAP_KILL CAP_SETGID CAP_SETUID CAP_SETPCAP " +
	"CAP_LINUX_IMMUTABLE CAP_NET_BIND_SERVICE CAP_NET_BROADCAST CAP_NET_ADMIN CAP_NET_RAW CAP_IPC_LOCK CAP_IPC_OWNER CAP_SYS_MODULE " +
	"CAP_SYS_RAWIO CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_PACCT CAP_SYS_ADMIN CAP_SYS_BOOT CAP_SYS_NICE CAP_SYS_RESOURCE CAP_SYS_TIME " +
	"CAP_SYS_TTY_CONFIG CAP_MKNOD CAP_LEASE CAP_AUDIT_WRITE CAP_AUDIT_CONTROL CAP_SETFCAP CAP_MAC_OVERRIDE CAP_MAC_ADMIN CAP_SYSLOG " +
	"CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_AUDIT_READ CAP_PERFMON CAP_BPF CAP_CHECKPOINT_RESTORE"

// guestCapabilities keeps the known ones and lists the others once each. Names are compared without
// regard to case, and crun gets them in upper case.
func guestCapabilities(c *specs.LinuxCapabilities) (*specs.LinuxCapabilities, []string) {
	if c == nil {
		return nil, nil
	}
	var unknown []string
	keep := func(in []string) []string {
		var out []string
		for _, name := range in {
			if contains(capabilities, strings.ToUpper(name)) {
				out = append(out, strings.ToUpper(name))
			} else if !slices.Contains(unknown, name) {
				unknown = append(unknown, name)
			}
		}
		return out
	}
	out := &specs.LinuxCapabilities{
		Bounding:    keep(c.Bounding),
		Effective:   keep(c.Effective),
		Inheritable: keep(c.Inheritable),
		Permitted:   keep(c.Permitted),
		Ambient:     keep(c.Ambient),
	}
	return out, unknown
}

// guestProcess builds the guest's process; labels and profiles stay behind.
func guestProcess(s *specs.Process) *specs.Process {
	caps, _ := guestCapabilities(s.Capabilities)
	out := &specs.Process{
		Terminal: s.Terminal,
		User: specs.User{
			UID: s.User.UID, GID: s.User.GID, Umask: s.User.Umask,
			AdditionalGids: s.User.AdditionalGids,
		},
		Args:            s.Args,
		Env:             s.Env,
		Cwd:             s.Cwd,
		Capabilities:    caps,
		NoNewPrivileges: s.NoNewPrivileges,
		OOMScoreAdj:     s.OOMScoreAdj,
	}
	if s.ConsoleSize != nil {
		out.ConsoleSize = &specs.Box{Height: s.ConsoleSize.Height, Width: s.ConsoleSize.Width}
	}
	for _, r := range s.Rlimits {
		out.Rlimits = append(out.Rlimits, specs.POSIXRlimit{Type: r.Type, Hard: r.Hard, Soft: r.Soft})
	}
	return out
}
