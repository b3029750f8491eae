// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cloister/labels"
	"cloister/sandbox/jail"
)

// starter starts a helper under its label, in the sandbox's network namespace and cgroup, with the
// sandbox's mark in its environment.
func (s *Sandbox) starter(label labels.Label) jail.Jail {
	return jail.Jail{
		Label:   func() (clear func(), err error) { return s.identity.driver.SetExec(label) },
		Network: s.netns.File(), Group: s.cgroup, OOMScore: s.request.Workload.OOMScore(), Env: []string{s.dir.Marker()},
	}
}
