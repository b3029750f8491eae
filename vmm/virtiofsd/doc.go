// SPDX-License-Identifier: Apache-2.0

// Package virtiofsd runs one file server per sandbox: QEMU's C virtiofsd or the Rust one, told
// apart by asking the binary.
//
// It knows nothing of labels, containers or QEMU's arguments. Its functions may be called by anyone
// at once. A caller fills in a Config and calls Start before QEMU's, gives Process.Socket to QEMU,
// reads back whose the peer is, and then calls HandedOver. From there on the server ends with QEMU,
// whatever happens to this process.
package virtiofsd
