// SPDX-License-Identifier: Apache-2.0

package avc

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/elastic/go-seccomp-bpf/arch"

	"cloister/labels"
)

// Numbers of the records in the kernel's log: linux/audit.h. AppArmor's has the number of all
// denials by a security module, and is told by its first field.
const (
	seccompRecord = "type=1326 " // AUDIT_SECCOMP
	appArmorMark  = ` apparmor="`
)

const (
	archX8664 = "c000003e"   // AUDIT_ARCH_X86_64
	logged    = "0x7ffc0000" // SECCOMP_RET_LOG: the call was let through
)

// parseOther reads the records of the other layers. What a process can choose in them, its command
// and names of files, is quoted or in hexadecimal, and so cannot look like a field.
func parseOther(line string) (Denial, bool) {
	_, rest, found := strings.Cut(line, "): ")
	switch {
	case !found:
		return Denial{}, false
	case strings.Contains(line, "type=SECCOMP ") || strings.Contains(line, seccompRecord):
		return seccomp(line, rest)
	case strings.HasPrefix(" "+rest, appArmorMark):
		return appArmor(line, rest)
	}
	return Denial{}, false
}

// seccomp reads a system call that a filter refused or logged. A call of another architecture, or
// one that the list of names does not have, is shown by its number.
func seccomp(line, rest string) (Denial, bool) {
	d := Denial{By: Seccomp, Class: "system call"}
	d.Event, d.Time = event(line)
	number, machine := "", ""
	for key, value := range fields(rest) {
		switch key {
		case "exe":
			d.Program = text(value)
		case "subj": // SELinux's label, else AppArmor's profile
			var err error
			if d.Source, err = labels.Parse(value); err != nil {
				d.Profile = strings.Trim(value, `"`)
			}
		case "syscall":
			number = value
		case "arch":
			machine = value
		case "code":
			d.Permissive = value == logged
		case "pid", "comm":
			if !d.set(key, value) {
				return Denial{}, false
			}
		}
	}
	n, err := strconv.Atoi(number)
	if err != nil {
		return Denial{}, false
	}
	name := ""
	if machine == archX8664 {
		name = arch.X86_64.SyscallNumbers[n]
	}
	d.Permissions = []string{cmp.Or(name, "number "+number)}
	return d, d.Program != ""
}

// appArmor reads what a profile denied or, in complain mode, would have denied. Other verdicts, as
// of a profile that was loaded, are no denials.
func appArmor(line, rest string) (Denial, bool) {
	d := Denial{By: AppArmor}
	d.Event, d.Time = event(line)
	verdict := ""
	for key, value := range fields(rest) {
		switch key {
		case "apparmor":
			verdict = text(value)
		case "operation":
			d.Class = text(value)
		case "profile":
			d.Profile = text(value)
		case "denied_mask", "capname":
			d.Permissions = strings.Fields(text(value))
		case "name":
			d.Path = text(value)
		case "pid", "comm":
			if !d.set(key, value) {
				return Denial{}, false
			}
		}
	}
	d.Permissive = verdict == "ALLOWED"
	if len(d.Permissions) == 0 {
		d.Permissions = []string{d.Class}
	}
	return d, (d.Permissive || verdict == "DENIED") && d.Class != "" && d.Profile != ""
}
