// SPDX-License-Identifier: Apache-2.0

// Package boot makes a guest of a kernel and an initial image: mounts, modules, limits, and the
// port to the host; and it ends the guest.
//
// It must not know containers or the contract's services. Prepare is its main call; the rest is for
// guests from a template, for the kernel's modprobe and for power. All but PowerOff runs before the
// agent serves, from one goroutine.
package boot
