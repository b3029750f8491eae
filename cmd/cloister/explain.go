// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"cloister/cmd/internal/avc"
	"cloister/labels"
	"cloister/labels/relabel"
)

// verdict of a denial. Its text is part of the JSON output and a label of a metric.
type judgement string

// The judgements.
const (
	judgedAttack   judgement = "attack"   // nothing that cloister or QEMU does leads to it
	judgedMistake  judgement = "mistake"  // a label, a setting or the policy is not as it should be
	judgedHarmless judgement = "harmless" // the program asks, and goes on without
)

// answer is what is made of a denial. The remedy is empty where no command helps: an attack, or
// something harmless.
type answer struct {
	Judgement judgement `json:"judgement"`
	Reason    string    `json:"reason"`
	Remedy    string    `json:"remedy,omitempty"` // the one command that helps
}

// scene is the state of the host that explains a denial.
type scene struct {
	levels []held        // who holds what
	files  []relabel.Use // what cloister has labelled
	state  string        // the folders of the config
	root   string
	image  string
}

// part is what runs in a domain.
type part int

const (
	partOther part = iota
	partQEMU
	partServer
	partContainer
	partShim
)

// partOf tells by its type what a process is. One domain for QEMU and its file server, as
// container-selinux and libvirt have, is told apart by the command.
func partOf(d avc.Denial) part {
	if d.By == avc.AppArmor || d.By == avc.Seccomp {
		return partOfOther(d)
	}
	switch d.Source.Type {
	case "cloister_qemu_t", "cloister_qemu_tcg_t":
		return partQEMU
	case "cloister_virtiofsd_t":
		return partServer
	case "container_kvm_t", "svirt_t", "svirt_tcg_t":
		if strings.HasPrefix(d.Command, "virtiofsd") {
			return partServer
		}
		return partQEMU
	case "cloister_container_t", "container_t":
		return partContainer
	case "cloister_shim_t":
		return partShim
	}
	// The shim without its own domain: somebody started it from a file without the label.
	if d.Command == "containerd-shim" && strings.HasPrefix(d.Target.Type, "cloister_") { // the kernel keeps 15 characters
		return partShim
	}
	return partOther
}

// String is for sentences: "... was denied".
func (p part) String() string {
	return [...]string{"a program of the host", "QEMU", "the file server (virtiofsd)", "a container", "the shim"}[p]
}

// rule explains some denials; ok is false for those that are not its own. A rule must be sure of
// what it claims: a remedy that opens something costs more than a wrong alarm.
type rule func(s scene, p part, d avc.Denial) (a answer, ok bool)

// rules in the order they are tried: what only an attack does, then what goes wrong by mistake.
func rules() []rule {
	return []rule{
		otherTenant, kernelPower, askedInVain, enteringDomain, shimDenied, notOurs, entrance, inherited,
		sensitive, executableMemory, foreignFileSystem, labelLost, guestImage, wholeDisk, oldModule, volume,
	}
}

// explain judges one denial. What no rule knows, done by a guest's side, is taken for an attack.
// The first rule that knows the denial decides.
func (s scene) explain(d avc.Denial) answer {
	p := partOf(d)
	switch d.By {
	case avc.Seccomp:
		return explainCall(p, d)
	case avc.AppArmor:
		return explainProfile(p, d)
	case avc.SELinux:
	}
	for _, r := range rules() {
		if a, ok := r(s, p, d); ok {
			return a
		}
	}
	return answer{judgedAttack, fmt.Sprintf("%s has no reason to touch a %s of type %s", p, d.Class, d.Target.Type), ""}
}

// guestSide are the processes that a guest's workload could have taken over.
func (p part) guestSide() bool { return p == partQEMU || p == partServer || p == partContainer }

// otherTenant: categories that the source has not. It comes first: with another's categories on the
// target, no remedy may be shown, whatever the rest looks like.
func otherTenant(s scene, p part, d avc.Denial) (answer, bool) {
	level, single := d.Target.Range.Single()
	// A target without categories is nobody's. A source that has the target's categories is of the
	// same tenant.
	if !p.guestSide() || !single || level.Categories.Len() == 0 || d.Source.Range.High.Categories.Contains(level.Categories) {
		return answer{}, false
	}
	return answer{judgedAttack, fmt.Sprintf("it is at level %s, which is %s", level, s.whose(level)), ""}, true
}

// whose says to whom a level belongs. A level that nobody holds may be that of files which a
// stopped sandbox left.
func (s scene) whose(level labels.Level) string {
	for _, h := range s.levels {
		if h.Level == level {
			if who := h.who(); len(who) > 0 {
				return "that of " + strings.Join(who, ", ")
			}
		}
	}
	return "held by no sandbox now: its holder has stopped"
}

// kernelPower: rights over the kernel, or over processes.
func kernelPower(_ scene, p part, d avc.Denial) (answer, bool) {
	// execmem has a rule of its own, since emulation needs it.
	if !p.guestSide() || slices.Contains(d.Permissions, "execmem") {
		return answer{}, false
	}
	// Classes by which a process changes the kernel, other processes, or the policy itself.
	power := []string{
		"security", "system", "process", "process2", "bpf", "perf_event", "kernel_service", "user_namespace", "cap_userns", "cap2_userns",
		"capability2", "key", "memprotect", "io_uring", "lockdown",
	}
	capability := d.Class == "capability" && !slices.ContainsFunc(d.Permissions, idle)
	if !slices.Contains(power, d.Class) && !capability && !strings.HasPrefix(d.Class, "netlink_") {
		return answer{}, false
	}
	return answer{judgedAttack, fmt.Sprintf("a guest's processes never need %s %s", d.Class, strings.Join(d.Permissions, " ")), ""}, true
}

// idle are capabilities that QEMU asks for and does without: QEMU's util/oslib-posix.c and
// os-posix.c raise limits and priorities where they may.
func idle(permission string) bool {
	return slices.Contains([]string{"sys_resource", "sys_nice", "ipc_lock"}, permission)
}

// askedInVain: what QEMU and the file server try at each start, and do without.
func askedInVain(_ scene, p part, d avc.Denial) (answer, bool) {
	if p != partQEMU && p != partServer {
		return answer{}, false
	}
	if d.Class == "capability" && slices.ContainsFunc(d.Permissions, idle) {
		return answer{judgedHarmless, "it raises limits and priorities where it may, and goes on where it may not", ""}, true
	}
	if d.Class == "dir" && onlyOf(d.Permissions, "search", "getattr") &&
		slices.Contains([]string{"sysfs_t", "proc_t", "sysctl_t", "sysctl_vm_t", "cgroup_t"}, d.Target.Type) {
		return answer{judgedHarmless, "it looks for the host's features, and goes on without", ""}, true
	}
	return answer{}, false
}

// enteringDomain: a start under a label that the starter may not give. Only the shim's domain may
// enter a guest's, so that nobody else can start a program in it.
func enteringDomain(_ scene, p part, d avc.Denial) (answer, bool) {
	target := partOf(avc.Denial{Source: d.Target})
	// From a part of the host into a guest's domain; a guest's own exec is another matter.
	if p.guestSide() || !target.guestSide() || d.Class != "process" && d.Class != "process2" {
		return answer{}, false
	}
	if !slices.ContainsFunc(d.Permissions, func(x string) bool {
		return slices.Contains([]string{"transition", "nnp_transition", "nosuid_transition", "rlimitinh", "noatsecure", "siginh"}, x)
	}) {
		return answer{}, false
	}
	if p != partShim {
		return answer{judgedHarmless, fmt.Sprintf("%s, in %s, tried to start a program in a guest's domain, which only the shim may",
			d.Command, d.Source.Type), ""}, true
	}
	if d.Source.Type != "cloister_shim_t" {
		return answer{
			judgedMistake,
			fmt.Sprintf("the shim runs in %s, which may not start guests: its file lacks the label that leads to its own domain",
				d.Source.Type), "cloister policy install",
		}, true
	}
	return answer{judgedMistake, "the policy module does not let the shim start guests in this domain", "cloister policy install"}, true
}

// shimDenied: the shim does what this program's module allows it to. A guest's processes cannot be
// the shim, so a denial here is a fault of the module or of a label.
func shimDenied(_ scene, p part, d avc.Denial) (answer, bool) {
	if p != partShim {
		return answer{}, false
	}
	// restorecon gives a file the label that the policy has for its path.
	if d.Target.Type == "unlabeled_t" && filepath.IsAbs(d.Path) {
		return answer{judgedMistake, "the file has no label", "restorecon -RFv " + quote(d.Path)}, true
	}
	// Which servers of the host a guest may reach is the site's choice, so the remedy adds one
	// optional rule.
	if d.Class == "unix_stream_socket" && slices.Contains(d.Permissions, "connectto") {
		name := "cloister_socket_" + d.Target.Type
		return answer{
			judgedMistake,
			fmt.Sprintf("a socket of the host that is a volume: the server runs in %s, and guests may be its clients "+
				"only where the site adds a rule for it", d.Target.Type),
			fmt.Sprintf("echo '(optional %[1]s (typeattributeset cloister_socket_server (%[2]s)))' >%[1]s.cil && semodule -i %[1]s.cil",
				name, d.Target.Type),
		}, true
	}
	return answer{
		judgedMistake,
		"the loaded module is not of this version of cloister, or lacks a rule: in that case report this line",
		"cloister policy install",
	}, true
}

// notOurs: a program of the host that reached for a guest's things. The guest is protected by it: a
// scanner or backup of the host met its files.
func notOurs(_ scene, p part, d avc.Denial) (answer, bool) {
	if p.guestSide() || p == partShim {
		return answer{}, false
	}
	return answer{judgedHarmless, fmt.Sprintf("%s of the host, in %s, may not touch what belongs to a guest; the guest is not affected",
		d.Command, d.Source.Type), ""}, true
}

// entrance: the program started is not one that leads into the domain, as one in a folder of its
// own is not. Started from a folder of one's own, QEMU has the label of ordinary files, and the
// kernel refuses it as an entry into the domain.
func entrance(_ scene, p part, d avc.Denial) (answer, bool) {
	kinds := map[part]string{partQEMU: "qemu_exec_t", partServer: "cloister_virtiofsd_exec_t"}
	if kinds[p] == "" || !slices.Contains(d.Permissions, "entrypoint") || !filepath.IsAbs(d.Path) {
		return answer{}, false
	}
	return answer{
		judgedMistake, fmt.Sprintf("%s does not have the label of a program that may run as %s", d.Path, d.Source.Type),
		"chcon -t " + kinds[p] + " " + quote(d.Path),
	}, true
}

// inherited: an open descriptor of the one who started it. The kernel puts the null device in its
// place.
func inherited(_ scene, _ part, d avc.Denial) (answer, bool) {
	// Inherited, and not opened: an open terminal of the one who ran the command.
	terminal := d.Class == "chr_file" && !slices.Contains(d.Permissions, "open") &&
		slices.Contains([]string{"tty_device_t", "console_device_t", "devpts_t", "user_devpts_t"}, d.Target.Type)
	if !terminal && (d.Class != "fd" || !onlyOf(d.Permissions, "use")) {
		return answer{}, false
	}
	return answer{
		judgedHarmless, fmt.Sprintf("it inherited a descriptor of %s, and got the null device instead", d.Target.Type),
		"",
	}, true
}

// sensitive: what no guest is ever given.
func sensitive(_ scene, p part, d avc.Denial) (answer, bool) {
	for _, mark := range []string{
		"shadow", "passwd", "ssh", "admin_home", "user_home", "user_tmp",
		"memory_device", "init_t", "selinux", "security_t", "auditd", "container_runtime", "docker", "cloister_var_lib", "cloister_shim",
	} {
		// The file server serves volumes, and those may be homes of users.
		if strings.Contains(d.Target.Type, mark) && (p != partServer || !strings.HasPrefix(mark, "user_")) {
			return answer{judgedAttack, fmt.Sprintf("no guest is ever given something of type %s", d.Target.Type), ""}, true
		}
	}
	return answer{}, false
}

// executableMemory: QEMU without KVM writes code and runs it; nothing else on a guest's side does.
func executableMemory(_ scene, _ part, d avc.Denial) (answer, bool) {
	if !onlyOf(d.Permissions, "execmem", "execmod", "execstack", "execheap") {
		return answer{}, false
	}
	if strings.HasPrefix(d.Source.Type, "svirt") {
		return answer{
			judgedMistake, "without KVM QEMU generates code, and svirt_t may not run it",
			"setsebool -P virt_use_execmem on",
		}, true
	}
	// QEMU was started in the domain for KVM, which may not write code: then KVM is gone since.
	if d.Source.Type == "cloister_qemu_t" {
		return answer{
			judgedMistake, "QEMU generates code in the domain for KVM: KVM may no longer be available",
			"cloister check",
		}, true
	}
	return answer{judgedAttack, fmt.Sprintf("nothing in %s writes code", d.Source.Type), ""}, true
}

// foreignFileSystem: no labels of its own, and one type for all.
func foreignFileSystem(_ scene, _ part, d avc.Denial) (answer, bool) {
	switches := map[string]string{"nfs_t": "virt_use_nfs", "cifs_t": "virt_use_samba", "fusefs_t": "virt_use_fusefs"}
	name, known := switches[d.Target.Type]
	if !known {
		return answer{}, false
	}
	if strings.HasPrefix(d.Source.Type, "svirt") {
		return answer{judgedMistake, "its file system takes no labels", "setsebool -P " + name + " on"}, true
	}
	return answer{
		judgedMistake, "its file system takes no labels, and cloister's domains have no switch for it",
		"copy it to a file system that does: ext4, xfs or btrfs",
	}, true
}

// labelLost: something that cloister labelled, and somebody else since. The journal knows the label
// that cloister gave; another one now is somebody else's work, as restorecon's.
func labelLost(s scene, _ part, d avc.Denial) (answer, bool) {
	level, _ := d.Source.Range.Single()
	for _, f := range s.files {
		want, err := labels.Parse(f.Label)
		if err != nil || want.Range.Low != level || !onPath(d.Path, f.Path) || want == d.Target {
			continue
		}
		return answer{
			judgedMistake, fmt.Sprintf("%s was labelled %s for %s, and its label was changed since", f.Path, f.Label, f.Sandbox),
			"chcon -R " + f.Label + " " + quote(f.Path),
		}, true
	}
	return answer{}, false
}

// guestImage: kernel and initial image, which every guest may read and none may write.
func guestImage(s scene, _ part, d avc.Denial) (answer, bool) {
	name := filepath.Base(d.Path)
	ofImage := onPath(d.Path, s.image) || d.Target.Type == "usr_t" && (name == "kernel" || name == "initrd")
	if !ofImage || d.Target.Type == "cloister_content_t" {
		return answer{}, false
	}
	return answer{
		judgedMistake, "the guest image does not have the label that every guest may read",
		"restorecon -RFv " + quote(s.image),
	}, true
}

// wholeDisk: QEMU is handed its disks open. A descriptor that was handed over needs no open. An
// open of a device by a guest's process is an attack.
func wholeDisk(_ scene, p part, d avc.Denial) (answer, bool) {
	if d.Class != "blk_file" && d.Class != "chr_file" {
		return answer{}, false
	}
	level, single := d.Source.Range.Single()
	if p == partQEMU && single && d.Class == "blk_file" && !slices.Contains(d.Permissions, "open") && filepath.IsAbs(d.Path) {
		kind := "cloister_image_t"
		if strings.HasPrefix(d.Source.Type, "svirt") {
			kind = "svirt_image_t"
		}
		return answer{
			judgedMistake, "a disk of the guest has lost its label: udev may have reset it",
			fmt.Sprintf("chcon -t %s -l %s %s", kind, level, quote(d.Path)),
		}, true
	}
	return answer{judgedAttack, fmt.Sprintf("%s opens no device node itself", p), ""}, true
}

// oldModule: the sandbox's own things, or the programs' own files. New versions of QEMU and
// libraries need rights that an old module lacks.
func oldModule(_ scene, p part, d avc.Denial) (answer, bool) {
	// Both have the sandbox's level: it was refused something of its own.
	own := d.Source.Range == d.Target.Range && strings.HasPrefix(d.Target.Type, "cloister_") &&
		!onlyOf(d.Permissions, "relabelfrom", "relabelto", "execute", "entrypoint")
	// Reading shared libraries is harmless; writing them is not in the list.
	library := d.Class == "file" && onlyOf(d.Permissions, "read", "open", "getattr", "map", "execute") &&
		slices.Contains([]string{"lib_t", "ld_so_t", "ld_so_cache_t", "usr_t", "etc_t", "locale_t", "textrel_shlib_t"}, d.Target.Type)
	if !own && !library {
		return answer{}, false
	}
	if p == partQEMU && d.Target.Type == "cloister_rootfs_t" {
		return answer{judgedAttack, "only the file server uses containers' files", ""}, true
	}
	return answer{
		judgedMistake, "the policy module lacks a rule that " + p.String() + " needs",
		"cloister policy install",
	}, true
}

// volume: a folder of the host that was mounted without a label that fits. It comes last: a
// volume's label may be anything, so every denial of a file would fit it.
func volume(_ scene, p part, d avc.Denial) (answer, bool) {
	if p != partServer || !slices.Contains([]string{"file", "dir", "lnk_file", "fifo_file", "sock_file", "filesystem"}, d.Class) {
		return answer{}, false
	}
	level, single := d.Source.Range.Single()
	if !single {
		return answer{}, false
	}
	kind := "cloister_rootfs_t"
	// Types of other policies have their files' type by the same convention.
	if d.Source.Type != "cloister_virtiofsd_t" {
		kind = strings.Replace(strings.Replace(d.Source.Type, "svirt_t", "svirt_image_t", 1), "container_kvm_t", "container_file_t", 1)
	}
	path := "FOLDER"
	if filepath.IsAbs(d.Path) {
		path = quote(d.Path)
	}
	// The log has the file's last name only; the inode is what finds it.
	reason := fmt.Sprintf("a volume whose label, %s, does not fit; mount it with :Z to have it labelled at each start", d.Target)
	if path == "FOLDER" {
		reason += fmt.Sprintf(" (the folder mounted that holds %q: find FOLDER -inum %d)", d.Path, d.Inode)
	}
	return answer{judgedMistake, reason, fmt.Sprintf("chcon -R -t %s -l %s %s", kind, level, path)}, true
}

// onPath tells whether path is folder or lies in it.
func onPath(path, folder string) bool {
	return folder != "" && (path == folder || strings.HasPrefix(path, folder+"/"))
}

// onlyOf tells whether nothing else is in list.
func onlyOf(list []string, allowed ...string) bool {
	return len(list) > 0 && !slices.ContainsFunc(list, func(x string) bool { return !slices.Contains(allowed, x) })
}

// quote makes a word of the shell of any text. Remedies are copied into a shell: a file name that a
// guest chose must stay one word there.
func quote(s string) string {
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-+:,@%", r)
	}) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
