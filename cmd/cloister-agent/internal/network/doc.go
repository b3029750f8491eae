// SPDX-License-Identifier: Apache-2.0

// Package network makes the guest's links what the host says they are.
package network
