// SPDX-License-Identifier: Apache-2.0

// Package lab is the SELinux lab: it builds a throwaway machine whose kernel enforces, runs the
// attack matrix and the built programs in it, and reads every denial that the kernel logs.
//
// The machine's root is made by debootstrap and kept in the cache; programs, policy and plan go in
// by a second disk, so the root is used again as long as its packages are the same. The lab's
// program in the machine is tests/lab/guest, the attacker tests/lab/probe, and what is said between
// host and machine tests/lab/wire.
package lab
