// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"cloister/cmd/internal/avc"
	"cloister/labels/apparmor"
)

// partOfOther tells what a process is by its profile, else by the program that it runs. Both are
// the kernel's words.
func partOfOther(d avc.Denial) part {
	sandbox, child, _ := strings.Cut(d.Profile, "//")
	child, _, _ = strings.Cut(child, " ") // the mode follows in a record of seccomp's
	ours := apparmor.IsName(sandbox)
	program := filepath.Base(d.Program)
	switch {
	case ours && child == apparmor.QEMU, d.By == avc.Seccomp && strings.HasPrefix(program, "qemu-"):
		return partQEMU
	case ours && child == apparmor.Virtiofsd, d.By == avc.Seccomp && program == "virtiofsd":
		return partServer
	case ours && child == apparmor.Container:
		return partContainer
	}
	return partOther
}

// takenOver are system calls that QEMU and the file server never make once a guest runs: over other
// processes, namespaces, mounts, the kernel and its keys, and new programs.
func takenOver() []string {
	return strings.Fields(`
		ptrace process_vm_readv process_vm_writev process_madvise process_mrelease pidfd_open pidfd_getfd pidfd_send_signal kcmp
		kill tkill execve execveat personality setuid setgid setresuid setresgid
		unshare setns mount umount2 move_mount open_tree mount_setattr fsopen fsmount fsconfig fspick pivot_root chroot
		mknod mknodat open_by_handle_at swapon swapoff quotactl acct
		bpf perf_event_open userfaultfd io_uring_enter io_uring_register keyctl add_key request_key
		init_module finit_module delete_module kexec_load kexec_file_load reboot syslog iopl ioperm sethostname setdomainname`)
}

// explainCall judges a system call that is not on a program's list.
func explainCall(p part, d avc.Denial) answer {
	call := d.Permissions[0]
	switch {
	case call == "io_uring_setup" || call == "clone3": // asked for by QEMU's start, and by the C library for each thread
		return answer{judgedHarmless, "it tries a newer system call, and falls back to an older one", ""}
	case slices.Contains(takenOver(), call):
		return answer{judgedAttack, fmt.Sprintf("%s never calls %s while a guest runs", p, call), ""}
	}
	return answer{
		judgedMistake, fmt.Sprintf("the list of system calls for %s does not include %s: a newer program or library may need it", p, call),
		"report this line; until then, seccomp = \"log\" under [jail] lets such calls through",
	}
}

// explainProfile judges what a sandbox's AppArmor profile denied.
func explainProfile(p part, d avc.Denial) answer {
	reads := onlyOf(d.Permissions, "r")
	below := func(folders ...string) bool {
		return slices.ContainsFunc(folders, func(folder string) bool { return strings.HasPrefix(d.Path, folder) })
	}
	switch {
	case p == partContainer && slices.Contains([]string{"mount", "umount", "pivotroot"}, d.Class):
		return answer{judgedMistake, "a plain container mounts nothing under AppArmor, as under its engine's own profile", "use class vm"}
	case d.Class == "capable" && slices.ContainsFunc(d.Permissions, idle), d.Class == "setrlimit":
		return answer{judgedHarmless, "it raises limits and priorities where it may, and goes on where it may not", ""}
	case d.Class == "open" && reads && (strings.HasSuffix(d.Path, "/cgroup") || below("/sys/kernel/mm/", "/sys/devices/system/")):
		return answer{judgedHarmless, "it looks for the host's features, and goes on without", ""}
	case (d.Class == "open" || d.Class == "file_mmap") && below("/usr/", "/lib/", "/opt/") && !slices.Contains(d.Permissions, "w"):
		return answer{
			judgedMistake, fmt.Sprintf("the profile does not let %s read this file of the system, which a newer program may need", p),
			"report this line; use the distribution's " + map[bool]string{true: "QEMU", false: "virtiofsd"}[p == partQEMU],
		}
	}
	what := d.Class
	if d.Path != "" {
		what += " of " + plain(d.Path)
	}
	return answer{judgedAttack, fmt.Sprintf("%s has no reason for %s", p, what), ""}
}
