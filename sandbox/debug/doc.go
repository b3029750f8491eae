// SPDX-License-Identifier: Apache-2.0

// Package debug connects `cloister debug` with a shell in a running guest.
//
// It knows nothing of the bytes that pass. Serve may be called at once for several sandboxes.
//
// The shim serves a socket in the sandbox's folder, and joins each connection to a stream of the
// guest. The program that runs there comes from the host, since the guest's image has no shell.
package debug
