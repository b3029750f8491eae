// SPDX-License-Identifier: Apache-2.0

// Package mcs reserves a level unique on the host across processes and engines; it releases it, and
// reclaims what dead owners left.
//
// The registry is a folder: one small file per reserved level under a lock, in a folder named by
// the boot. Its file names are the index, so a draw reads nothing of what 5,000 others hold. It
// knows of processes only what it is told by Options. Every method may be called at once, in as
// many processes as there are.
package mcs
