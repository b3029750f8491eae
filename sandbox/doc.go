// SPDX-License-Identifier: Apache-2.0

// Package sandbox is one machine, its label and its guest connection: start, wait, stop, destroy.
//
// It is the only room that sees both a label and a machine. It knows nothing of containerd's calls
// and nothing of states and exit codes. Start makes a Sandbox by the steps in sandbox.go, which
// README.md has as a table. Add, Sync and Remove serve its containers, Wait waits for its end, and
// Destroy takes everything back. A Sandbox may be used by any number of goroutines.
package sandbox
