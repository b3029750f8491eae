// SPDX-License-Identifier: Apache-2.0

// Package pause is process 1 of a pid namespace that a pod's containers share.
// It reaps, and ends with the guest.
package pause
