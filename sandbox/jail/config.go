// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
)

// Part is a part of the jail that can be switched off by name.
type Part string

// The parts; see About. All are on unless they are named under disable.
const (
	Users        Part = "users"
	Capabilities Part = "capabilities"
	NoNewPrivs   Part = "no_new_privs"
	Seccomp      Part = "seccomp"
	Landlock     Part = "landlock"
	Namespaces   Part = "namespaces"
	Devices      Part = "devices"
	RootDir      Part = "root"
	RLimits      Part = "limits"
)

// Parts are all parts, in the order in which they are shown. The order is that of the documents,
// and of the rows of cloister check.
func Parts() []Part {
	return []Part{Users, Capabilities, NoNewPrivs, Seccomp, Landlock, Namespaces, Devices, RootDir, RLimits}
}

// About says what a part does, for people.
func (p Part) About() string {
	switch p {
	case Users:
		return "QEMU runs as a user and group of its own, another for each sandbox"
	case Capabilities:
		return "QEMU has no capability, virtiofsd only those that it needs"
	case NoNewPrivs:
		return "no exec gives QEMU or virtiofsd more rights"
	case Seccomp:
		return "QEMU and virtiofsd may make the system calls of a list alone"
	case Landlock:
		return "QEMU and virtiofsd open only the files that they need, and reach no abstract socket or TCP port"
	case Namespaces:
		return "QEMU and virtiofsd have pid, ipc, uts, mount and cgroup namespaces of their own, virtiofsd a network namespace too"
	case Devices:
		return "QEMU and virtiofsd may open null, urandom and kvm alone"
	case RootDir:
		return "QEMU's root directory has only what it needs, and is empty when the guest runs; virtiofsd's is not the host's then"
	case RLimits:
		return "QEMU and virtiofsd lock no memory, and QEMU makes no file larger than its memory or its largest disk"
	}
	return ""
}

// Config is the part [jail] of the configuration.
type Config struct {
	// Disable names parts of the jail of QEMU and virtiofsd that are left out; default none.
	Disable []Part `toml:"disable"`
	// Seccomp says what becomes of a system call that is not in the list: enforce has it fail with
	// EPERM, log lets it through. `cloister why` names it from the kernel's log; default enforce.
	Seccomp string `toml:"seccomp"`
	// UIDBase is the first of the 523,777 uids and gids that sandboxes draw theirs from. Nobody
	// else may have an id of that range; default 1879048192.
	UIDBase uint32 `toml:"uid_base"`
}

// Check refuses a name that is no part's. It is called before a sandbox has any effect: a misspelt
// name must not leave a part on that an administrator believes off, nor the reverse.
func (c Config) Check() error {
	for _, p := range c.Disable {
		if !slices.Contains(Parts(), p) {
			return fmt.Errorf("jail.disable: %q is no part of the jail: want some of %v: %w", p, Parts(), errdefs.ErrInvalidArgument)
		}
	}
	if c.Seccomp != "" && c.Seccomp != "enforce" && c.Seccomp != "log" {
		return fmt.Errorf("jail.seccomp = %q: want enforce or log: %w", c.Seccomp, errdefs.ErrInvalidArgument)
	}
	if base := c.uidBase(); base < leastBase || base > mostBase {
		return fmt.Errorf("jail.uid_base = %d: want %d to %d: %w", base, leastBase, mostBase, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Has reports whether a part is on. A part that is on and that the kernel lacks is an error of the
// start, but for Landlock.
func (c Config) Has(p Part) bool { return !slices.Contains(c.Disable, p) }

// On lists the parts that are on, for people, as "users seccomp landlock:7". landlockABI is the
// version of Landlock that the kernel has, 0 for none. The text is in the record of each sandbox.
func (c Config) On(landlockABI int) string {
	var on []string
	for _, p := range Parts() {
		switch {
		case !c.Has(p), p == Landlock && landlockABI == 0:
		case p == Landlock:
			on = append(on, fmt.Sprintf("%s:%d", p, landlockABI))
		default:
			on = append(on, string(p))
		}
	}
	return strings.Join(on, " ")
}
