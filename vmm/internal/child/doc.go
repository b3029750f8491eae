// SPDX-License-Identifier: Apache-2.0

// Package child is what QEMU and its file server have in common as processes of ours: logs that
// errors quote, and sockets that nobody can find.
//
// It must not know which of the two it serves. Recorder keeps what a process writes; Private and
// Socketpair make the connections that it inherits; NoCore and InheritNothing keep memory and
// descriptors from leaking.
package child
