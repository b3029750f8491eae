// SPDX-License-Identifier: Apache-2.0

// Package lab has hosts with SELinux, with AppArmor and without either, as MAC says, each in a
// throwaway machine. It runs the built programs and the attacks in it, and reads every denial that
// the kernel logs. SELinux's has the attack matrix; the others have `cloister prove`.
//
// The machine's root is made by debootstrap and kept in the cache; programs, policy and plan go in
// by a second disk, so the root is used again as long as its packages are the same. The lab's
// program in the machine is tests/lab/guest, the attacker tests/lab/probe, and what is said between
// host and machine tests/lab/wire.
package lab
