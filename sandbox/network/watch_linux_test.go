// SPDX-License-Identifier: Apache-2.0

package network

import (
	"net"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestWatchSurvivesAnOverflow has more changes come at once than the kernel keeps for a listener:
// it hears of the next one all the same.
func TestWatchSurvivesAnOverflow(t *testing.T) {
	b := newBench(t, 1)
	eth0 := b.add(b.veth("eth0"), 1)
	socket, err := b.n.subscribe()
	b.must(err)
	defer socket.Close()
	for i := range byte(255) {
		for j := range byte(8) {
			b.must(b.RouteAdd(&netlink.Route{
				LinkIndex: eth0.Attrs().Index,
				Dst:       &net.IPNet{IP: net.IPv4(10, 2, j, i), Mask: net.CIDRMask(32, 32)}, Scope: netlink.SCOPE_LINK,
			}))
		}
	}
	wake := make(chan struct{}, 1)
	go listen(t.Context(), socket, wake)
	<-wake
	b.must(b.RouteAdd(by(eth0, 2, nil)))
	<-wake
}
