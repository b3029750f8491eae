// SPDX-License-Identifier: Apache-2.0

// Package debug connects `cloister debug` with a shell in a running guest.
//
// It knows nothing of the bytes that pass. Serve may be called at once for several sandboxes.
package debug
