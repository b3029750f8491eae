// SPDX-License-Identifier: Apache-2.0

// Package sockets listens in the guest for sockets of the host that containers have as volumes.
//
// A socket file that is shared over virtiofs leads nowhere: its other end is in the host's kernel.
// So the agent makes a socket of the guest's, and each connection travels over a stream that the
// host has opened ahead. It must not know what the sockets are for. Registry is safe for concurrent
// use.
package sockets
