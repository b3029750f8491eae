// SPDX-License-Identifier: Apache-2.0

// Package statedir holds every file name of a sandbox, and its write-ahead record.
//
// It must not know how an effect is made or taken back: it keeps the list, on
// disk before the effect, and walks it backwards for whoever comes next. A
// Journal is held by one process at a time and may be used by any number of
// its goroutines; Dir and the ids are plain values.
//
// A start calls Create, then Promise, the effect itself, and Done for each effect; its undo strikes
// each out by Forget. Whoever comes after a dead shim calls Open, or Rebuild if the record says
// nothing, and then Journal.Undo with an Undoer for each kind. Promised and made look alike to it,
// which is why an undo of nothing must succeed.
package statedir
