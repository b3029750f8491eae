// SPDX-License-Identifier: Apache-2.0

package process

import (
	"fmt"
	"os"
)

// nowhere is how this process opens a null device by name. The device itself has no name.
func nowhere(null *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", null.Fd()) }

// outputs gives the names of a process's outputs for containerd's service, which is told a name for
// both or for none. Alone, an output fails in it. An input alone has it collect the output in
// memory, and Start last as long as the process. A terminal has one output; without a name for it,
// Start fails after the process has been started, which then keeps running with its terminal open.
// What the engine did not ask for goes to the null device.
func outputs(null *os.File, stdin, stdout, stderr string, terminal bool) (outName, errName string) {
	if !terminal && stdin == "" && stdout == "" && stderr == "" {
		return stdout, stderr
	}
	if stdout == "" {
		stdout = nowhere(null)
	}
	if stderr == "" && !terminal {
		stderr = nowhere(null)
	}
	return stdout, stderr
}

// asked empties those of a process's output names that are outputs' own. Engines open by them what
// they have asked for.
func asked(null *os.File, names ...*string) {
	for _, name := range names {
		if *name == nowhere(null) {
			*name = ""
		}
	}
}
