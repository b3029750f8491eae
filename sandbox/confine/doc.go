// SPDX-License-Identifier: Apache-2.0

// Package confine gives a sandbox its identity on the host and has a mandatory access control
// driver keep its processes and files apart from everybody else's.
//
// It is the one place that knows which driver a host has: callers use a Driver and never ask for
// its name. It must not know how a process is started or what a mount is for. A Driver belongs to
// one sandbox; its methods may be called at once, after Reserve.
//
// Choose names the driver by what the kernel has enabled, and Open gives it for one sandbox. A
// start calls Reserve, Admit for each file, Exec and Sockets around the processes' start, and
// Verify before the guest's first instruction; its undo calls Release. Recover does the same as
// Release from another process, by the sandbox's name, when its shim is dead.
package confine
