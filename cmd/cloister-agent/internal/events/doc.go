// SPDX-License-Identifier: Apache-2.0

// Package events keeps what happened to containers until the host has it.
//
// The host polls and says which event it has seen; so an event survives a lost answer, and the
// order is that of the guest. It must not know what an event means. A Queue is safe for concurrent
// use.
package events
