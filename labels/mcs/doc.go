// SPDX-License-Identifier: Apache-2.0

// Package mcs reserves a level unique on the host across processes and engines; it releases it, and
// reclaims what dead owners left.
//
// The registry is a folder: one small file per reserved level under a lock, in a folder named by
// the boot. Its file names are the index, so a draw reads nothing of what 5,000 others hold. It
// knows of processes only what it is told by Options. Every method may be called at once, in as
// many processes as there are.
//
// It must not know what a process or a file is for. Options answer whether an owner lives, which
// levels processes and files carry, and whether something is still to be undone. Types: Registry is
// the folder, Request is what a sandbox wants, Entry is what it got, Kept is a pair that files of a
// stopped tenant carry.
//
// A sandbox calls Reserve before it labels anything and Release after its files have their old
// labels back. Between the two it calls LookAgain, once its own label is visible and before its
// guest runs, and Redraw if another engine has drawn the same pair meanwhile. A process that dies
// in between releases nothing. Reclaim does so for it, or Open in the next boot.
package mcs
