// SPDX-License-Identifier: Apache-2.0

// Package forward carries the host's tcp/ streams to ports of the guest's localhost. It may be
// called from several goroutines at once.
package forward
