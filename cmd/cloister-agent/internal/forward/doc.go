// SPDX-License-Identifier: Apache-2.0

// Package forward carries the host's tcp/ streams to ports of the guest's localhost. It may be
// called from several goroutines at once.
//
// The host's end is the port-forward of CRI: what a program of the host sends to localhost of the
// pod's network namespace. The package must not know who that is. How many are open at once is
// bounded by the host.
package forward
