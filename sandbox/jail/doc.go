// SPDX-License-Identifier: Apache-2.0

// Package jail starts the helper processes of a sandbox and takes from them what they do not
// need: namespaces, capabilities, root, cgroup and readiness for the OOM killer.
//
// It must not know what a label is: whoever confines a process by one sets it in Jail.Label, on
// the thread that starts the process. Nor does it know what the process does. A Jail is a value
// that may be used once; its methods may be called at once.
//
// ForQEMU and ForVirtiofsd give the Jail of a role from the configuration. Start starts the program
// in it; Verify reads back, from another process's view, that it is there. What cannot be read back
// is an error of the start where the kernel refuses it. All of it is done before the program's
// first instruction, or before the guest's where it says so.
package jail
