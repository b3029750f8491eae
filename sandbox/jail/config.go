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

// The parts. All are on unless they are named under disable.
const (
	Capabilities Part = "capabilities" // QEMU has no capability, virtiofsd only those that it needs
	NoNewPrivs   Part = "no_new_privs" // no exec gives QEMU or virtiofsd more rights
	Namespaces   Part = "namespaces"   // QEMU and virtiofsd have ipc and uts namespaces of their own
	Devices      Part = "devices"      // QEMU and virtiofsd may open null, urandom and kvm alone
	RootDir      Part = "root"         // QEMU's root directory is not the host's when the guest runs
)

// Parts are all parts, in the order in which they are shown.
func Parts() []Part { return []Part{Capabilities, NoNewPrivs, Namespaces, Devices, RootDir} }

// Config is the part [jail] of the configuration.
type Config struct {
	Disable []Part `toml:"disable"` // parts that are left out, by name; default none
}

// Check refuses a name that is no part's.
func (c Config) Check() error {
	for _, p := range c.Disable {
		if !slices.Contains(Parts(), p) {
			return fmt.Errorf("jail.disable: %q is no part of the jail: want some of %v: %w", p, Parts(), errdefs.ErrInvalidArgument)
		}
	}
	return nil
}

// Has reports whether a part is on.
func (c Config) Has(p Part) bool { return !slices.Contains(c.Disable, p) }

// String lists the parts that are on, for people.
func (c Config) String() string {
	var on []string
	for _, p := range Parts() {
		if c.Has(p) {
			on = append(on, string(p))
		}
	}
	return strings.Join(on, " ")
}
