// SPDX-License-Identifier: Apache-2.0

package network

import (
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestForGuest says which links a guest gets, and which are refused.
func TestForGuest(t *testing.T) {
	link := func(name string, change ...func(*netlink.LinkAttrs)) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name, a.Index, a.EncapType, a.RawFlags = name, len(name)+int(name[len(name)-1]), "ether", unix.IFF_UP
		for _, c := range change {
			c(&a)
		}
		return a
	}
	encap := func(kind string) func(*netlink.LinkAttrs) { return func(a *netlink.LinkAttrs) { a.EncapType = kind } }
	down := func(a *netlink.LinkAttrs) { a.RawFlags = 0 }
	on := func(parent, namespace int) func(*netlink.LinkAttrs) {
		return func(a *netlink.LinkAttrs) { a.ParentIndex, a.NetNsID = parent, namespace }
	}
	eth0 := &netlink.Veth{LinkAttrs: link("eth0", on(5, 0))}
	for _, test := range []struct {
		name, want, refused string
		links               []netlink.Link
	}{
		{"veth", "eth0", "", []netlink.Link{eth0}},
		{"parents elsewhere", "a1 a2 a3 a4", "", []netlink.Link{
			&netlink.Macvlan{LinkAttrs: link("a1", on(7, 0))}, &netlink.IPVlan{LinkAttrs: link("a2", on(7, 0))},
			&netlink.IPVlan{LinkAttrs: link("a3", on(7, 0)), Mode: netlink.IPVLAN_MODE_L3}, &netlink.Vlan{LinkAttrs: link("a4", on(7, 0))},
		}},
		{"a card", "a1", "", []netlink.Link{&netlink.Device{LinkAttrs: link("a1")}}},
		{"a parent here", "", "it stands on eth0", []netlink.Link{eth0, &netlink.Vlan{LinkAttrs: link("a1", on(eth0.Index, -1))}}},
		{"both ends of a cable", "a1 a2", "", []netlink.Link{&netlink.Veth{LinkAttrs: link("a1", on(52, -1))}, &netlink.Veth{LinkAttrs: link("a2", on(51, -1))}}},
		{"a bond, whose ports have its traffic", "", "link a1 of kind bond", []netlink.Link{&netlink.Bond{LinkAttrs: link("a1")}}},
		{"l3s", "", "mode l3s", []netlink.Link{&netlink.IPVlan{LinkAttrs: link("a1", on(7, 0)), Mode: netlink.IPVLAN_MODE_L3S}}},
		{"vxlan", "", "link a1 of kind vxlan", []netlink.Link{&netlink.Vxlan{LinkAttrs: link("a1")}}},
		{"wireguard", "", "link a1 of kind wireguard", []netlink.Link{eth0, &netlink.Wireguard{LinkAttrs: link("a1", encap("none"))}}},
		{"the kernel's own", "eth0", "", []netlink.Link{
			eth0, &netlink.Sittun{LinkAttrs: link("sit0", encap("sit"), down)}, &netlink.GenericLink{LinkAttrs: link("ip6_vti0", encap("tunnel6"), down)},
			&netlink.Gretap{LinkAttrs: link("gretap0", down)}, &netlink.Device{LinkAttrs: link("lo", encap("loopback"), func(a *netlink.LinkAttrs) { a.RawFlags |= unix.IFF_LOOPBACK })},
		}},
	} {
		mine, err := forGuest(test.links)
		var names []string
		for _, l := range mine {
			names = append(names, l.Attrs().Name)
		}
		if got := strings.Join(names, " "); got != test.want || (err == nil) != (test.refused == "") || err != nil && !strings.Contains(err.Error(), test.refused) {
			t.Errorf("%s: %q, %v, want %q and %q", test.name, got, err, test.want, test.refused)
		}
	}
}
