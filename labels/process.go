// SPDX-License-Identifier: Apache-2.0

package labels

// Process is a process on the host and the label it runs under.
type Process struct {
	PID   int
	Label Label
}
