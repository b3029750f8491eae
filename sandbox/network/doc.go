// SPDX-License-Identifier: Apache-2.0

// Package network is the netns plumbing: links found, tap made, traffic
// redirected; DNS and port forwarders.
//
// It knows nothing of machines beyond a tap's descriptor, and nothing of who
// made the links. A Namespace may be used by one goroutine at a time.
//
// A start opens a Namespace, makes a tap for each NIC of the machine, and leaves the host side its
// ports. A Session then tells the guest what its links are to be, and follows changes until the
// guest ends. Links keep their addresses: engines use them, for a name server and for checks of
// health, and see no link that they have not made. After a crash RestoreAt takes the redirects and
// the range of ports back, from what the record has.
package network
