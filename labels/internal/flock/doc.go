// SPDX-License-Identifier: Apache-2.0

// Package flock takes a lock that the kernel gives back when its holder dies.
//
// It must not know what is locked. The registry of levels and the journals call Take around each
// change, and close the file afterwards. A lock of flock belongs to the open file, not to the
// process: two calls in one process exclude each other as well.
package flock
