// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cloister/sandbox/confine"
	"cloister/sandbox/jail"
)

// starter starts a helper confined as its role says, in the sandbox's network namespace and cgroup, with
// the sandbox's mark in its environment.
func (s *Sandbox) starter(r confine.Role) jail.Jail {
	return jail.Jail{
		Label:   func() (clear func(), err error) { return s.confine.Exec(r) },
		Network: s.netns.File(), Group: s.cgroup, OOMScore: s.request.Workload.OOMScore(), Env: []string{s.dir.Marker()},
	}
}
