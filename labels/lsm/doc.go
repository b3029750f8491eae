// SPDX-License-Identifier: Apache-2.0

// Package lsm is the kernel's side of labels: whether SELinux is enabled and enforces, the label of
// a process, file or peer, what the policy would answer, and starting a command under a label.
//
// It must not know what it starts. What changes the state of a thread does so on a thread of its
// own that ends with it. Every function may be called at once.
//
// Main types: Host asks the kernel, Driver is what the config chose ("selinux" or "none") and does
// nothing that it cannot read back. A caller opens a Driver, has it choose the types (ChooseTypes)
// and makes the sockets (Sockets, Socketpair). It sets the label on the thread that starts the
// program (SetExec), and calls Verify while the guest is stopped. Each step asks the kernel anew
// whether it still enforces: an answer kept from the start would outlive a setenforce 0.
package lsm
