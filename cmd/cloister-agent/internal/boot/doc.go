// SPDX-License-Identifier: Apache-2.0

// Package boot makes a guest of a kernel and an initial image: mounts,
// modules, limits, and the port to the host; and it ends the guest.
package boot
