// SPDX-License-Identifier: Apache-2.0

// Package bed is a containerd in a private place with a busybox image in it, for tests that use
// containers by ctr.
//
// Its cgroups are told from those of other beds by containerd's namespace, which is the bed's own.
// The functions of one bed may be called at once.
package bed
