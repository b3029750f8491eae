// SPDX-License-Identifier: Apache-2.0

// Package background builds templates beside sandboxes, each in a process of its own.
//
// A shim whose sandbox has started cold because it has no template calls Asker.Ask, which returns
// at once. The builder is the same program under another name; it calls Build. It must know
// nothing of containerd. No sandbox fails or waits for a build: a builder has a low priority,
// there is one at a time on a host, and what it cannot do it leaves to the next cold start.
package background
