// SPDX-License-Identifier: Apache-2.0

// Package sockets listens in the guest for sockets of the host that containers have as volumes.
package sockets
