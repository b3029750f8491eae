// SPDX-License-Identifier: Apache-2.0

// Package tasks is containerd's Task API in the guest: containerd's own
// runc-shim service, with the host's streams for stdio and crun's errors in
// runc's words.
package tasks
