// SPDX-License-Identifier: Apache-2.0

// Package undo takes back what a start did: a stack of steps, newest first.
//
// A step that has an effect on the host is promised in the sandbox's record before it happens, so
// that another process can take it back when this one is killed. The package knows nothing of what
// the steps do. A Stack is used by one goroutine at a time.
package undo
