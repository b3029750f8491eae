// SPDX-License-Identifier: Apache-2.0

// Package tasks is containerd's Task API in the guest: containerd's own runc-shim service, with the
// host's streams for stdio and crun's errors in runc's words.
//
// It must not know the host's ids, pids or paths: a request has an id and tokens, and everything
// else is made here. Service is the main type, safe for concurrent use as the service that it
// wraps.
package tasks
