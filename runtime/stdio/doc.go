// SPDX-License-Identifier: Apache-2.0

// Package stdio connects what containerd gives a process for stdin, stdout and stderr with that
// process's streams in the guest.
//
// It knows FIFOs, files and logging binaries on one side and byte streams on the other, and nothing
// of containers or machines. A stream whose reader is away holds up its own writer and nothing
// else. An IO is made by Open, used by Start, CloseStdin and Wait, and ended by Close; its methods
// may be called from any goroutine, Start once.
//
// Main types: Config is what a request says, IO the host's side of one process, Stream one stream
// of the guest. The runtime opens an IO, opens the streams that Wants names, and hands them over
// with Start. When the process has ended, it calls Settle before it tells of the exit, Wait before
// it deletes the process, and Close.
//
// No wait here is without an end, since a client may read slowly, or never: each is bounded, or
// ends when nothing moves.
package stdio
