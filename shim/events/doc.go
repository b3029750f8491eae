// SPDX-License-Identifier: Apache-2.0

// Package events sends the shim's events to containerd, in the order in which they were published.
//
// Publishing never waits for containerd. Events queue up while containerd is away and are sent when
// it is back; an event whose answer was lost is sent again, so a subscriber may see one twice but
// never in another order. The queue holds 4096 events. When it is full the oldest event goes that
// is neither a TaskExit nor a TaskDelete, because a client waits for those; when there are only
// such, the oldest of them. An event that containerd refuses by itself is dropped after three
// attempts. Each dropped event is logged.
//
// A Publisher may be used by any goroutine.
package events
