// SPDX-License-Identifier: Apache-2.0

// Package template keeps saved guests: what a guest's memory and devices were once its agent was
// ready, under a key that says which guests may start from it.
//
// It must know nothing of QEMU, labels or containers: it stores bytes that others make and use, and
// copies memory. No byte of a tenant is in a template, since the guest that becomes one has no
// share, no network and no workload. A Store may be used by several processes at once.
//
// A template is a folder with a manifest, the state of the devices as QEMU wrote it, and those
// pages of memory that are not zero. Store.Begin and Draft.Commit make one, Store.Open gives one
// that is undamaged, Fill copies its memory into a file of NewMemory's, and Store.Share gives its
// memory as one file that many machines map copy-on-write. What a crash leaves is a
// draft, which Sweep removes; a template that has its name is whole.
package template
