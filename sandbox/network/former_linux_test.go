// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"net"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// TestGuestKeepsItsWayOut has an engine lead default routes to links that the guest does not have,
// as Docker does for the network with the highest gateway priority: it withdraws the old route
// first.
func TestGuestKeepsItsWayOut(t *testing.T) {
	for _, family := range []struct {
		name    string
		address func(number, host byte) net.IP
		bits    int
	}{
		{"IPv4", func(number, host byte) net.IP { return net.IPv4(10, 0, number, host).To4() }, 32},
		{"IPv6", func(number, host byte) net.IP { return net.IP{0xfd, number, 15: host} }, 128},
	} {
		t.Run(family.name, func(t *testing.T) {
			b := newBench(t, 2)
			link := func(name string, number byte) netlink.Link {
				l := b.veth(name)
				b.must(b.LinkAdd(l))
				b.must(b.AddrAdd(l, &netlink.Addr{IPNet: &net.IPNet{
					IP: family.address(number, 2), Mask: net.CIDRMask(family.bits/2, family.bits),
				}, Flags: 0x02})) // IFA_F_NODAD: routes need no wait
				b.must(b.LinkSetUp(l))
				return l
			}
			out := func(l netlink.Link, number byte, metric int) *netlink.Route {
				anywhere := &net.IPNet{IP: make(net.IP, family.bits/8), Mask: net.CIDRMask(0, family.bits)}
				return &netlink.Route{LinkIndex: l.Attrs().Index, Dst: anywhere, Gw: family.address(number, 1), Priority: metric}
			}
			expect := func(what, want string, wantLeft int) {
				t.Helper()
				guest, left, err := b.n.Sync()
				b.must(err)
				var got []string
				for _, r := range guest.GetRoutes() {
					got = append(got, r.GetLink()+" "+r.GetGateway())
				}
				if !slices.Equal(got, []string{want}) && (want != "" || len(got) > 0) || len(left) != wantLeft {
					t.Errorf("%s: routes of the guest %q, left out %q; want %q and %d left out", what, got, left, want, wantLeft)
				}
			}
			gateway := func(number byte) string { return family.address(number, 1).String() }

			eth0, eth1 := link("eth0", 1), link("eth1", 2)
			b.must(b.RouteAdd(out(eth0, 1, 0)))
			expect("one way out", "eth0 "+gateway(1), 0)
			eth2 := link("eth2", 3)
			b.must(b.RouteDel(out(eth0, 1, 0)))
			expect("the engine is between its two steps", "", 1)
			b.must(b.RouteAdd(out(eth2, 3, 0)))
			expect("out by a link without a NIC", "eth0 "+gateway(1), 2)
			expect("the same, seen again", "eth0 "+gateway(1), 2)
			b.must(b.LinkSetDown(eth0))
			b.must(b.LinkSetName(eth0, "front"))
			b.must(b.LinkSetUp(eth0))
			if family.bits == 32 { // IPv6 addresses go when a link goes down
				expect("renamed", "front "+gateway(1), 2)
			} else {
				b.must(b.LinkDel(eth0))
				expect("the NIC is free", "eth2 "+gateway(3), 0)
				return
			}

			// The latest is kept, and a link that has gone takes it along.
			b.must(b.RouteDel(out(eth2, 3, 0)))
			b.must(b.RouteAdd(out(eth1, 2, 0)))
			expect("out by the other one", "eth1 "+gateway(2), 1)
			b.must(b.RouteAdd(out(eth2, 3, 7)))
			expect("one more, worse", "eth1 "+gateway(2), 1)
			b.must(b.RouteDel(out(eth1, 2, 0)))
			expect("only the worse is left", "eth1 "+gateway(2), 2)
			b.must(b.RouteDel(out(eth2, 3, 7)))
			expect("withdrawn", "", 1)
			b.must(b.LinkDel(eth1))
			expect("its link is gone", "", 0)
			again := link("eth1", 2)
			b.must(b.RouteAdd(out(again, 2, 0)))
			expect("another one of that name and address has no NIC", "", 1)
		})
	}
}

// TestFormerRoutesAreBounded: routes that an engine sets and takes away are not kept for the life
// of the sandbox, but for the default one.
func TestFormerRoutesAreBounded(t *testing.T) {
	had := former{}
	for i := range 1000 {
		had = had.remember(&guestv1.Network{Routes: []*guestv1.Route{
			{Family: 2, Destination: fmt.Sprintf("10.%d.%d.0/24", i/256, i%256)}, {Family: 2},
		}}, nil)
	}
	if len(had) != 1 || had[target{family: 2}] == nil {
		t.Errorf("former routes: %v, want the default one", had)
	}
}
