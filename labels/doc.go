// SPDX-License-Identifier: Apache-2.0

// Package labels holds the pure values of mandatory access control: Label, Range, Level, Category,
// Pair; it parses, prints and compares them, and chooses the labels of a sandbox (choose.go).
//
// It knows nothing of processes, files, QEMU or containers, and reads nothing of the host. Values
// are comparable and are copied freely; any function may be called at once.
package labels
