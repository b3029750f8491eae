// SPDX-License-Identifier: Apache-2.0

package template

// Size says which sandboxes a template is for. Zero is the configured default. All else that a
// machine depends on is the host's and its configuration's.
type Size struct {
	LimitMiB int    // memory limit of the containers; the template is of its class
	CPUs     int    // of the machine
	Machine  string // its type, microvm or q35
}
