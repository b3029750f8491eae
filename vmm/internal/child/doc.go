// SPDX-License-Identifier: Apache-2.0

// Package child is what QEMU and its file server have in common as processes of
// ours: logs that errors quote, and sockets that nobody can find.
package child
