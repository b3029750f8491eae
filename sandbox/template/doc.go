// SPDX-License-Identifier: Apache-2.0

// Package template keeps saved guests: what a guest's memory and devices were once its agent was
// ready, under a key that says which guests may start from it.
//
// It must know nothing of QEMU, labels or containers: it stores bytes that others make and use, and
// copies memory. No byte of a tenant is in a template, since the guest that becomes one has no
// share, no network and no workload. A Store may be used by several processes at once.
package template
