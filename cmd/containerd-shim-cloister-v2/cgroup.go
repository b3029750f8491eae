// SPDX-License-Identifier: Apache-2.0

package main

import "cloister/sandbox/cgroup"

// join moves the daemon into the cgroup that the engine chose for shims.
func join(group string, pid int) error {
	g, err := cgroup.At(group)
	if err != nil {
		return err
	}
	return g.Join(pid)
}
