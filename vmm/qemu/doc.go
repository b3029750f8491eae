// SPDX-License-Identifier: Apache-2.0

// Package qemu turns a machine into QEMU's arguments (pure, golden) and runs one
// QEMU process: start stopped, watch, stop; QMP goes through go-qemu's qmp behind
// one adapter.
//
// It knows nothing of labels or containers: whoever starts a process brings the
// Starter that labels it. Args may be called by anyone at once; so may the
// methods of a Process.
package qemu
