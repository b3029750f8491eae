// SPDX-License-Identifier: Apache-2.0

// Package held gives namespaces names below /run/cloister/ns, by which the host has containers join
// them. A namespace with a name lasts as long as the guest.
//
// It must not know what the namespaces are for. Hold is called while the guest is prepared; Open,
// Has and InFirst are safe for concurrent use.
package held
