// SPDX-License-Identifier: Apache-2.0

// Package watch tells which files below a folder of the host are changed.
//
// It must not know who wants to know, nor what a guest is. Open begins to watch, Next gives names
// of what has changed, Close ends it. The tree may be a guest's to change: a name is told and never
// followed out of it. A Tree is used by one goroutine; Close may come from another.
package watch
