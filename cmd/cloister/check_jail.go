// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"

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
		} else if s.config.Jail.Has(p) {
			list = append(list, ok(string(p), "on: %s", p.About()))
		} else {
			list = append(list, warn(string(p), "off, so this does not hold: "+p.About(), "remove \""+string(p)+"\" from disable under [jail]"))
		}
	}
	return list
}
