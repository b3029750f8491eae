// SPDX-License-Identifier: Apache-2.0

// Package stdio connects what containerd gives a process for stdin, stdout and stderr with that
// process's streams in the guest.
//
// It knows FIFOs, files and logging binaries on one side and byte streams on the other, and nothing
// of containers or machines. A stream whose reader is away holds up its own writer and nothing
// else. An IO is made by Open, used by Start, CloseStdin and Wait, and ended by Close; its methods
// may be called from any goroutine, Start once.
package stdio
