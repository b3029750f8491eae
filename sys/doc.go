// SPDX-License-Identifier: Apache-2.0

// Package sys has the kernel idioms that several rooms need: a thread that is never reused,
// entering namespaces on it, names resolved below a directory descriptor, pidfds, inotify, and the
// identity of a process.
//
// It imports nothing of this module and decides nothing: no label, no container, no machine. All
// functions may be called at once. Errors wrap the kernel's errno.
//
// Main types: Process is an identity that survives the reuse of its pid, PIDFD a process that can
// be signalled without a race, Namespaces what a thread enters. OpenBelow, OpenNoLinks and
// RemoveBelow are for paths that somebody else may change. A thread's state is changed in OnThread.
// Who obeys a file as root asks Trusted first.
package sys
