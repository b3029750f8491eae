// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// TestChoose says which links a guest gets, by which NICs, and what is said of the others.
func TestChoose(t *testing.T) {
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
	a1, a2, a3 := &netlink.Veth{LinkAttrs: link("a1")}, &netlink.Veth{LinkAttrs: link("a2")}, &netlink.Veth{LinkAttrs: link("a3")}
	upon := func(lower *netlink.Veth, name string) netlink.Link {
		return &netlink.Macvlan{LinkAttrs: link(name, on(lower.Index, -1))}
	}
	vxlan := &netlink.Vxlan{LinkAttrs: link("a0")}
	// Cards are 0 to 3, or those of held, each with the link that it has.
	for _, test := range []struct {
		name, want, left string
		links            []netlink.Link
		held             []int
	}{
		{"veth", "eth0=0", "", []netlink.Link{eth0}, nil},
		{"parents elsewhere", "a1=0 a2=1 a3=2 a4=3", "", []netlink.Link{
			&netlink.Macvlan{LinkAttrs: link("a1", on(7, 0))}, &netlink.IPVlan{LinkAttrs: link("a2", on(7, 0))},
			&netlink.IPVlan{LinkAttrs: link("a3", on(7, 0)), Mode: netlink.IPVLAN_MODE_L3}, &netlink.Vlan{LinkAttrs: link("a4", on(7, 0))},
		}, nil},
		{"a NIC", "a1=0", "", []netlink.Link{&netlink.Device{LinkAttrs: link("a1")}}, nil},
		{
			"a parent here", "eth0=0", "a1 of kind macvlan cannot be passed to a guest: it is a child of eth0",
			[]netlink.Link{eth0, upon(eth0, "a1")},
			nil,
		},
		{
			"a parent that came later", "a3=1", "a1 of kind veth cannot be passed to a guest: its child a3 is the guest's",
			[]netlink.Link{a1, upon(a1, "a3")},
			[]int{0, a3.Index},
		},
		{
			"both ends of a cable", "a1=0 a2=1", "",
			[]netlink.Link{
				&netlink.Veth{LinkAttrs: link("a1", on(a2.Index, -1))},
				&netlink.Veth{LinkAttrs: link("a2", on(a1.Index, -1))},
			},
			nil,
		},
		{"a bond, whose ports have its traffic", "", "link a1 of kind bond", []netlink.Link{&netlink.Bond{LinkAttrs: link("a1")}}, nil},
		{"l3s", "", "mode l3s", []netlink.Link{&netlink.IPVlan{LinkAttrs: link("a1", on(7, 0)), Mode: netlink.IPVLAN_MODE_L3S}}, nil},
		{
			"l3s by now", "", "mode l3s",
			[]netlink.Link{&netlink.IPVlan{LinkAttrs: link("a1", on(7, 0)), Mode: netlink.IPVLAN_MODE_L3S}},
			[]int{a1.Index},
		},
		{"vxlan", "", "link a1 of kind vxlan", []netlink.Link{&netlink.Vxlan{LinkAttrs: link("a1")}}, nil},
		{
			"wireguard beside a good one", "eth0=0", "link a1 of kind wireguard",
			[]netlink.Link{eth0, &netlink.Wireguard{LinkAttrs: link("a1", encap("none"))}},
			nil,
		},
		{
			"more than NICs", "a1=0 a2=1", "link a3 of kind veth cannot be passed to a guest: all 2 NICs of the machine are taken",
			[]netlink.Link{a3, a2, a1},
			[]int{0, 0},
		},
		{"who has a NIC keeps it", "a3=0 a1=1", "link a2 of kind veth", []netlink.Link{a1, a2, a3}, []int{a3.Index, 0}},
		{"a link has gone", "a3=0 a2=1", "", []netlink.Link{a2, a3}, []int{a3.Index, a1.Index}},
		{"what is unfit takes no NIC", "a1=0", "link a0 of kind vxlan", []netlink.Link{vxlan, a1}, []int{0}},
		{
			"all at once", "a2=0", "link a0 of kind vxlan | link a1 of kind veth | link a3 of kind veth",
			[]netlink.Link{a3, a2, a1, vxlan},
			[]int{a2.Index},
		},
		{"no NICs", "", "all 0 NICs", []netlink.Link{a1}, []int{}},
		{"the kernel's own", "eth0=0", "", []netlink.Link{
			eth0, &netlink.Sittun{LinkAttrs: link("sit0", encap("sit"), down)},
			&netlink.GenericLink{LinkAttrs: link("ip6_vti0", encap("tunnel6"), down)},
			&netlink.Gretap{LinkAttrs: link("gretap0", down)},
			&netlink.Device{LinkAttrs: link("lo", encap("loopback"), func(a *netlink.LinkAttrs) { a.RawFlags |= unix.IFF_LOOPBACK })},
		}, nil},
	} {
		if test.held == nil {
			test.held = make([]int, 4)
		}
		var cards []*card
		for _, link := range test.held {
			cards = append(cards, &card{link: link})
		}
		mine, left := choose(test.links, cards)
		var got []string
		for _, m := range mine {
			got = append(got, fmt.Sprintf("%s=%d", m.link.Attrs().Name, slices.Index(cards, m.card)))
		}
		wrong := strings.Join(got, " ") != test.want
		said := strings.Split(test.left, " | ")
		for i, err := range left {
			wrong = wrong || len(left) != len(said) || !strings.Contains(err.Error(), said[i])
		}
		if wrong || (len(left) == 0) != (test.left == "") {
			t.Errorf("%s: %q and %q, want %q and %q", test.name, got, left, test.want, test.left)
		}
	}
}
