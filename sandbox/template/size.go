// SPDX-License-Identifier: Apache-2.0

package template

// Size says which sandboxes a template is for. Zero is the configured default. All else that a
// machine depends on is the host's and its configuration's.
type Size struct {
	LimitMiB int    // memory limit of the containers; the template is of its class
	CPUs     int    // of the machine
	Machine  string // its type, microvm or q35
}

// Wanted is what a builder is asked for after the cold start of a sandbox whose containers may use
// that much memory, in bytes. The builder takes the class of the limit itself: a class may be above
// sizing.max_memory_mib, which the builder would refuse after each cold start.
func Wanted(memory int64, cpus int, machine string) Size {
	return Size{LimitMiB: int(memory >> 20), CPUs: cpus, Machine: machine}
}
