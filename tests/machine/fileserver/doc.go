// SPDX-License-Identifier: Apache-2.0

// Package fileserver attacks virtiofsd from both sides: as the guest's kernel and QEMU, which send
// it any bytes, and as what takes it over. It stands for QEMU by itself: no guest runs.
package fileserver
