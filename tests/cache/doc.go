// SPDX-License-Identifier: Apache-2.0

// Package cache lists, locks and prunes what is slow to build: everything below one folder
// (testenv.Cache), as KIND/ENTRY, where an entry's name holds a digest of what it is made of.
//
// An entry is built beside its place under its lock and renamed when it is whole. So one that is
// there can be used without a lock, and two builds of the same never run at once.
package cache
