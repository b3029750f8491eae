// SPDX-License-Identifier: Apache-2.0

// Package crashtest lets a test kill a program at any step of what it does to the host.
//
// Without the build tag crashtest it does nothing, and Trace is nil. It must not know what the
// steps are: package undo names them. A Trace is safe for concurrent use.
package crashtest
