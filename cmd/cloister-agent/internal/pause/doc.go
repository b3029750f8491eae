// SPDX-License-Identifier: Apache-2.0

// Package pause is process 1 of a pid namespace that a pod's containers share. It reaps, and ends
// with the guest.
//
// When process 1 of a pid namespace ends, the kernel kills every process in it; so it must outlive
// all containers of the pod. It must not know them. It is the agent's own program, since the image
// has no other.
package pause
