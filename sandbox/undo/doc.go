// SPDX-License-Identifier: Apache-2.0

// Package undo takes back what a start did: a stack of steps, newest first.
//
// A step that has an effect on the host is promised in the sandbox's record before it happens, so
// that another process can take it back when this one is killed. The package knows nothing of what
// the steps do. A Stack is used by one goroutine at a time.
//
// A start calls Stack.Do for each effect on the host and Push for what only this process has. On an
// error it calls Run, which takes back all of it; a start that succeeds keeps the Stack for the
// end.
package undo
