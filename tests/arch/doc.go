// SPDX-License-Identifier: Apache-2.0

// Package arch holds the rules about the tree as ordinary tests: rooms, the direction of imports,
// licence lines, comments.
//
// It must know nothing but file names and import lines: it builds and runs nothing of the tree.
package arch
