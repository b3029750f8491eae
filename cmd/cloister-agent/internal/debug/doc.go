// SPDX-License-Identifier: Apache-2.0

// Package debug runs a program that the host sends, a shell, in the guest and outside of its
// containers.
//
// It runs in the agent's own namespaces, so it sees every process, mount and link. The image has no
// shell: what runs is held in memory while somebody uses it. The host sends one only where its
// config has [debug] shell.
//
// It must not know containers. Serve is all of it, and is safe for concurrent use: each call has a
// stream and a process of its own.
package debug
