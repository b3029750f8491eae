// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"

	"cloister/sandbox/jail"
	"cloister/sys"
	"cloister/vmm/virtiofsd"
)

// checkJail says which parts of the jail are on. Each sandbox reads them back from the kernel
// before its guest runs. A part that is switched off is a warning, since it is the owner's choice;
// a name in disable that is no part is a fail, since the owner believes something is off or on that
// is not.
func checkJail(ctx context.Context, s *site) []finding {
	if err := s.config.Jail.Check(); err != nil {
		f := failed("disable", err)
		f.Remedy = "correct it: no sandbox starts"
		return []finding{f}
	}
	list := make([]finding, 0, len(jail.Parts())+1)
	// The users part needs a free range of ids on this host; Landlock depends on the kernel's
	// version.
	for _, p := range jail.Parts() {
		if err := s.config.Jail.CheckHost(s.path("/etc")); p == jail.Users && s.config.Jail.Has(p) && err != nil {
			// jail.uid_base collides with ids of passwd, subuid and the like: no sandbox starts.
			list = append(list, failed(string(p), err))
		} else if abi := jail.LandlockABI(); p == jail.Landlock && s.config.Jail.Has(p) {
			list = append(list, landlockFinding(abi))
		} else if p == jail.Capabilities && s.config.Jail.Has(p) {
			list = append(list, capabilitiesFinding())
		} else if s.config.Jail.Has(p) {
			list = append(list, ok(string(p), "on: %s", p.About()))
		} else {
			list = append(list, warn(string(p), "off, so this does not hold: "+p.About(),
				// The whole line of the config is named, so that it can be found.
				"remove \""+string(p)+"\" from disable under [jail]"))
		}
	}
	// It is the one that sandboxes start. Another check tells of a missing one, and of one that
	// others may change. The kind is asked of the program itself, which the config may name.
	if path, err := s.programs()[1].find(); err == nil && sys.Trusted(path) == nil {
		if path, kind, err := virtiofsd.Find(ctx, path); err == nil {
			list = append(list, serverFinding(path, kind))
		}
	}
	return list
}

// capabilitiesFinding names what is left. It is no warning, because no host does better: the files
// of a guest's users keep their ids on the host.
func capabilitiesFinding() finding {
	return ok(string(jail.Capabilities), "on: QEMU has none; virtiofsd, root in its sandbox's own tree, keeps %s of the host's",
		strings.Join(jail.KeptByVirtiofsd(), ", "))
}

// serverFinding prefers the Rust server: what the C server lacks is that nobody maintains it, and
// that one of its threads keeps two capabilities and only the jail's own list of system calls.
func serverFinding(path string, kind virtiofsd.Kind) finding {
	if kind == virtiofsd.KindC {
		return warn("file server", path+" is the C server: QEMU 8.0 dropped it, and a thread of it keeps CAP_SYS_CHROOT and CAP_SETPCAP",
			"use the Rust server where it can be had (virtiofsd of Debian 13 or Fedora): its path is virtiofsd under [machine]")
	}
	return ok("file server", "%s is the Rust server", path)
}

// fullABI is the first version of Landlock that knows of abstract sockets and signals.
const fullABI = 6

// landlockFinding says how far the kernel's Landlock goes.
func landlockFinding(abi int) finding {
	name := string(jail.Landlock)
	switch {
	case abi == 0:
		return warn(name, "on, but the kernel has no Landlock: only the other parts protect the host",
			"add landlock to the kernel parameter lsm=, or use a kernel that has it (5.13)")
	case abi < fullABI:
		return warn(name, fmt.Sprintf("on: ABI %d, which covers files, but fewer sockets and signals than ABI %d", abi, fullABI),
			"use a newer kernel (6.12)")
	}
	return ok(name, "on: ABI %d: %s", abi, jail.Landlock.About())
}
