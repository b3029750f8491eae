// SPDX-License-Identifier: Apache-2.0

// Package network tests what a guest has of the network namespace that an engine gave to its
// container: real links, a real containerd, both directions.
package network
