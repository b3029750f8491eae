// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"strings"
	"time"

	"cloister/tests/lab/wire"
)

// mac is the mandatory access control that the lab's kernel has.
type mac string

// What MAC may name, as in make test-lab MAC=apparmor.
const (
	selinuxMAC  mac = "selinux"
	apparmorMAC mac = "apparmor"
	noMAC       mac = "none"
)

// chosenMAC is what MAC says; selinux if it says nothing.
func chosenMAC() (mac, error) {
	switch m := mac(os.Getenv("MAC")); m {
	case "":
		return selinuxMAC, nil
	case selinuxMAC, apparmorMAC, noMAC:
		return m, nil
	default:
		return "", fmt.Errorf("MAC=%s: want %s, %s or %s", m, selinuxMAC, apparmorMAC, noMAC)
	}
}

// parameters are the kernel's.
func (m mac) parameters() []string {
	switch m {
	case selinuxMAC:
		return []string{"security=selinux", "enforcing=1"}
	case apparmorMAC:
		return []string{"apparmor=1", "security=apparmor"}
	case noMAC:
	}
	return []string{"apparmor=0", "selinux=0", "lsm=landlock,yama"}
}

// enforced asks the machine whether its kernel has this control and no other. It is the first
// request: the machine starts meanwhile.
func (m mac) enforced(l *machine) error {
	file, want := "/sys/fs/selinux/enforce", "1"
	switch m {
	case apparmorMAC:
		file, want = "/sys/module/apparmor/parameters/mode", "enforce"
	case noMAC: // the kernel adds capability, and Debian's lockdown, to what its command line names
		file, want = "/sys/kernel/security/lsm", "lockdown,capability,landlock,yama"
	case selinuxMAC:
	}
	answer, err := l.ask(wire.Request{Read: &wire.Read{Path: file}}, 3*time.Minute)
	if err == nil && strings.TrimSpace(answer.Out) != want {
		err = fmt.Errorf("the lab's kernel: %s says %q, want %q", file, answer.Out, want)
	}
	return err
}

// prepare makes the folders that tests use, and labels what has labels.
func (m mac) prepare(l *machine) error {
	if m == selinuxMAC {
		return restoreLabels(l)
	}
	return l.write(wire.Write{Path: "/run/lab", Folder: true}, wire.Write{Path: heldFolder, Folder: true})
}
