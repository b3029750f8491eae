// SPDX-License-Identifier: Apache-2.0

// Package clients builds the foreign programs that the tests use, through the Go module proxy, and
// runs containerd's client suite against a runtime.
//
// What is built lies in the cache under a name that holds the recipe's digest, and is never
// changed. Build may run in several processes at once.
package clients
