// SPDX-License-Identifier: Apache-2.0

// Package sys has the kernel idioms that several rooms need: a thread that is never reused,
// entering namespaces on it, names resolved below a directory descriptor, pidfds, and the identity
// of a process.
//
// It imports nothing of this module and decides nothing: no label, no container, no machine. All
// functions may be called at once. Errors wrap the kernel's errno.
package sys
