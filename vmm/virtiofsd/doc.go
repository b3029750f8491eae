// SPDX-License-Identifier: Apache-2.0

// Package virtiofsd runs one file server per sandbox: QEMU's C virtiofsd or the
// Rust one, told apart by asking the binary.
//
// It knows nothing of labels, containers or QEMU's arguments. Its functions may
// be called by anyone at once.
package virtiofsd
