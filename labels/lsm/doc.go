// SPDX-License-Identifier: Apache-2.0

// Package lsm is the kernel's side of labels: whether SELinux is enabled and enforces, the label of
// a process, file or peer, what the policy would answer, and starting a command under a label.
//
// It must not know what it starts. What changes the state of a thread does so on a thread of its
// own that ends with it. Every function may be called at once.
package lsm
