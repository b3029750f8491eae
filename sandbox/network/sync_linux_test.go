// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// bench is a namespace with a machine's NICs, in which a test is the engine.
type bench struct {
	*netlink.Handle
	n *Namespace
	t *testing.T
}

func newBench(t *testing.T, cards int) *bench {
	t.Helper()
	b := &bench{n: inNamespace(t), t: t}
	for i := range cards {
		tap, err := b.n.NewTap(fmt.Sprintf("02:00:00:00:00:0%d", i))
		b.must(err)
		t.Cleanup(func() { _ = tap.Close() })
	}
	var err error
	b.Handle, err = netlink.NewHandleAt(netns.NsHandle(b.n.file.Fd()), unix.NETLINK_ROUTE)
	b.must(err)
	t.Cleanup(b.Close)
	return b
}

func (b *bench) must(err error) {
	b.t.Helper()
	if err != nil {
		b.t.Fatal(err)
	}
}

// add makes a link with the address 10.0.NUMBER.2, and a route to 10.1.NUMBER.0 by it.
func (b *bench) add(l netlink.Link, number byte) netlink.Link {
	b.t.Helper()
	b.must(b.LinkAdd(l))
	addr := &netlink.Addr{IPNet: &net.IPNet{IP: net.IPv4(10, 0, number, 2), Mask: net.CIDRMask(24, 32)}}
	b.must(errors.Join(b.AddrAdd(l, addr), b.LinkSetUp(l), b.RouteAdd(by(l, number, nil))))
	return l
}

func by(l netlink.Link, number byte, source net.IP) *netlink.Route {
	return &netlink.Route{
		LinkIndex: l.Attrs().Index, Scope: netlink.SCOPE_LINK, Src: source,
		Dst: &net.IPNet{IP: net.IPv4(10, 1, number, 0), Mask: net.CIDRMask(24, 32)},
	}
}

// veth's other end is in a namespace that nobody has.
func (b *bench) veth(name string) netlink.Link {
	far, err := Open("")
	b.must(err)
	b.t.Cleanup(func() { _ = far.Close() })
	return &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "peer", PeerNamespace: netlink.NsFd(int(far.file.Fd()))}
}

// sync compares what the guest is to have, CARD=LINK and routes, and what is said of the rest; what
// it has is redirected, and nothing else.
func (b *bench) sync(what, want, wantLeft string) {
	b.t.Helper()
	guest, left, err := b.n.Sync()
	b.must(err)
	var got, said, wired, redirected []string
	for _, l := range guest.GetLinks() {
		got = append(got, l.GetMac()[16:]+"="+l.GetName())
		wired = append(wired, l.GetName())
	}
	for _, r := range guest.GetRoutes() {
		got = append(got, strings.Repeat("100:", int(r.GetTable())/100)+r.GetDestination()[:6])
	}
	for _, r := range guest.GetRules() {
		got = append(got, fmt.Sprintf("IPv%d:%d:%s%s>%d", r.GetFamily(), r.GetPriority(), r.GetSource(), r.GetInLink(), r.GetTable()))
	}
	for _, err := range left {
		said = append(said, strings.Join(strings.Fields(err.Error())[:2], " "))
	}
	all, err := b.LinkList()
	b.must(err)
	for _, l := range all {
		if engineMade(l) && hasIngress(b.Handle, l) {
			redirected = append(redirected, l.Attrs().Name)
		}
	}
	for _, c := range []struct{ of, got, want string }{
		{"the guest has", strings.Join(got, " "), want},
		{"left", strings.Join(said, ", "), wantLeft},
		{"redirected", fmt.Sprint(redirected), fmt.Sprint(wired)},
	} {
		if c.got != c.want {
			b.t.Errorf("%s: %s %q, want %q", what, c.of, c.got, c.want)
		}
	}
}

// TestSync has links come and go that a guest can have, and others that it cannot.
func TestSync(t *testing.T) {
	b := newBench(t, 2)
	eth0 := b.add(b.veth("eth0"), 1)
	b.must(b.n.Check())
	b.sync("one link", "0=eth0 10.1.1", "")
	odd := b.add(&netlink.Vxlan{LinkAttrs: netlink.LinkAttrs{Name: "odd"}, VxlanId: 3, Port: 4789}, 2)
	eth1 := b.add(b.veth("eth1"), 3)
	b.sync("an unfit one, and one after it", "0=eth0 1=eth1 10.1.1 10.1.3", "link odd")
	if err := b.n.Check(); err == nil || !strings.Contains(err.Error(), "link odd of kind vxlan cannot be passed to a guest") {
		t.Errorf("Check = %v", err)
	}
	b.add(b.veth("eth2"), 4)
	b.sync("one more than NICs", "0=eth0 1=eth1 10.1.1 10.1.3", "link odd, link eth2")
	b.must(b.RouteAdd(by(eth0, 5, net.IPv4(10, 0, 2, 2))))
	b.must(b.RouteAdd(by(eth0, 6, net.IPv4(10, 0, 3, 2))))
	b.sync("sources of links that the guest has, or not", "0=eth0 1=eth1 10.1.1 10.1.3 10.1.6", "link odd, link eth2, route to")
	b.must(b.LinkDel(odd))
	b.sync("the unfit one is gone", "0=eth0 1=eth1 10.1.1 10.1.3 10.1.6", "link eth2")
	b.must(b.LinkDel(eth0))
	b.sync("a NIC is free", "1=eth1 0=eth2 10.1.3 10.1.4", "")

	// Whoever leaves the namespace has lost its redirect, even if nobody has looked meanwhile.
	away, err := Open("")
	b.must(err)
	defer away.Close()
	far, err := netlink.NewHandleAt(netns.NsHandle(away.file.Fd()), unix.NETLINK_ROUTE)
	b.must(err)
	defer far.Close()
	b.must(b.LinkSetNsFd(eth1, int(away.file.Fd())))
	b.must(far.LinkSetNsFd(eth1, int(b.n.file.Fd())))
	b.sync("there and back", "1=eth1 0=eth2 10.1.4", "")
}

// TestRules has rules and routes of another table, and some that a guest cannot have.
func TestRules(t *testing.T) {
	b := newBench(t, 1)
	eth0 := b.add(b.veth("eth0"), 1)
	_, source, err := net.ParseCIDR("fd00::/64")
	b.must(err)
	rule := func(priority, family int, change func(*netlink.Rule)) {
		r := netlink.NewRule()
		r.Priority, r.Family, r.Table = priority, family, 100
		change(r)
		b.must(b.RuleAdd(r))
	}
	rule(7, netlink.FAMILY_V6, func(r *netlink.Rule) { r.Src = source })
	rule(5, netlink.FAMILY_V4, func(r *netlink.Rule) { r.IifName = "eth0" })
	rule(32766, netlink.FAMILY_V4, func(r *netlink.Rule) { r.Table, r.IifName = unix.RT_TABLE_MAIN, "eth0" }) // beside the kernel's own
	other := by(eth0, 2, nil)
	other.Table = 100
	b.must(b.RouteAdd(other))
	const both = "0=eth0 100:10.1.2 10.1.1 IPv4:5:eth0>100 IPv4:32766:eth0>254 IPv6:7:fd00::/64>100"
	b.sync("plain rules", both, "")
	b.must(b.n.Check())
	rule(8, netlink.FAMILY_V4, func(r *netlink.Rule) { r.OifName = "eth7" })
	rule(9, netlink.FAMILY_V6, func(r *netlink.Rule) { r.UIDRange = netlink.NewRuleUIDRange(1, 2) })
	hops := by(eth0, 3, nil)
	hops.LinkIndex, hops.Scope, hops.MultiPath = 0, netlink.SCOPE_UNIVERSE,
		[]*netlink.NexthopInfo{
			{LinkIndex: eth0.Attrs().Index, Gw: net.IPv4(10, 0, 1, 1)},
			{LinkIndex: eth0.Attrs().Index, Gw: net.IPv4(10, 0, 1, 3)},
		}
	b.must(b.RouteAdd(hops))
	b.sync("what cannot be", both, "route to, rule 8, rule 9")
}
