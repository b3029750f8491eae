// SPDX-License-Identifier: Apache-2.0

// Package debug runs a program that the host sends, a shell, in the guest and outside of its
// containers.
//
// It runs in the agent's own namespaces, so it sees every process, mount and link. The image has no
// shell: what runs is held in memory while somebody uses it.
package debug
