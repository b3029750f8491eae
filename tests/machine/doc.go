// SPDX-License-Identifier: Apache-2.0

// Package machine tests vmm, vmm/qemu and vmm/virtiofsd together: real machines
// that boot the guest's kernel into a test program, guest, as process 1.
package machine
