// SPDX-License-Identifier: Apache-2.0

// Package network makes the guest's links what the host says they are.
//
// The host sends the whole network each time, and the package computes what differs from the
// kernel's state. So a lost answer or a repeated call changes nothing. It must not know where the
// addresses come from. Spare is the main type; its user lets one call at a time in.
package network
