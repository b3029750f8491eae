// SPDX-License-Identifier: Apache-2.0

// Package hypervisor has the two processes of a sandbox on the host, QEMU and its file server. A
// sandbox whose files are all on disks has QEMU alone.
//
// It starts each in its jail, reads back from the kernel how it runs, replaces QEMU's root
// directory, and tells what the host knows of a guest that does not answer. It knows nothing of
// containers and nothing of the sandbox's record. Start methods are called once and in order: Serve
// (left out without a share), Launch, Verify, LeaveHost, Greeted, Watch. The others may be called
// at once.
//
// A process that dies ends the other one: neither is of use alone. Whoever made the VM calls Watch
// in a goroutine and gets the End from Wait. Errors of calls to the guest go through Explain, so
// that a client reads why the machine has ended.
package hypervisor
