// SPDX-License-Identifier: Apache-2.0

// Package qemu turns a machine into QEMU's arguments (pure, golden) and runs one QEMU process:
// start stopped, watch, stop; QMP goes through go-qemu's qmp behind one adapter.
//
// It knows nothing of labels or containers: whoever starts a process brings the Starter that labels
// it. Args may be called by anyone at once; so may the methods of a Process. A caller calls Start,
// reads back from the kernel what the Process runs as, and then Continue: no instruction of the
// guest runs before. Done and Err tell the end, with the last lines of QEMU and guest.
package qemu
