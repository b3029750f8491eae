// SPDX-License-Identifier: Apache-2.0

// Package network is the netns plumbing: links found, tap made, traffic
// redirected; DNS and port forwarders.
//
// It knows nothing of machines beyond a tap's descriptor, and nothing of who
// made the links. A Namespace may be used by one goroutine at a time.
package network
