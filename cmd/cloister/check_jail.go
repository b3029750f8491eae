// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"

	"cloister/sandbox/jail"
)

// checkJail says which parts of the jail are on. Each sandbox reads them back from the kernel
// before its guest runs.
func checkJail(_ context.Context, s *site) []finding {
	if err := s.config.Jail.Check(); err != nil {
		f := failed("disable", err)
		f.Remedy = "correct it: no sandbox starts"
		return []finding{f}
	}
	list := make([]finding, 0, len(jail.Parts()))
	for _, p := range jail.Parts() {
		if err := s.config.Jail.CheckHost(s.path("/etc")); p == jail.Users && s.config.Jail.Has(p) && err != nil {
			list = append(list, failed(string(p), err))
		} else if abi := jail.LandlockABI(); p == jail.Landlock && s.config.Jail.Has(p) {
			list = append(list, landlockFinding(abi))
		} else if s.config.Jail.Has(p) {
			list = append(list, ok(string(p), "on: %s", p.About()))
		} else {
			list = append(list, warn(string(p), "off, so this does not hold: "+p.About(), "remove \""+string(p)+"\" from disable under [jail]"))
		}
	}
	return list
}

// fullABI is the first version of Landlock that knows of abstract sockets and signals.
const fullABI = 6

// landlockFinding says how far the kernel's Landlock goes.
func landlockFinding(abi int) finding {
	name := string(jail.Landlock)
	switch {
	case abi == 0:
		return warn(name, "on, and the kernel has no Landlock: the other parts hold alone", "add landlock to the kernel parameter lsm=, or use a kernel that has it (5.13)")
	case abi < fullABI:
		return warn(name, fmt.Sprintf("on: ABI %d, which knows of files and less of sockets and signals than %d", abi, fullABI), "use a newer kernel (6.12)")
	}
	return ok(name, "on: ABI %d: %s", abi, jail.Landlock.About())
}
