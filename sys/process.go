// SPDX-License-Identifier: Apache-2.0

package sys

import "fmt"

// Process is the identity of one process of one boot: a pid alone is given out again. The zero
// value names none.
type Process struct {
	PID int `json:"pid"`
	// Start is the start time in clock ticks after boot, field 22 of /proc/PID/stat.
	Start uint64 `json:"start"`
	// Boot is /proc/sys/kernel/random/boot_id.
	Boot string `json:"boot"`
	// PIDNamespace is the inode of the pid namespace that PID is counted in.
	PIDNamespace uint64 `json:"pid_namespace"`
}

// String is for people.
func (p Process) String() string { return fmt.Sprintf("pid %d started at tick %d", p.PID, p.Start) }
