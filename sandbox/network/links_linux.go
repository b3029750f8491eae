// SPDX-License-Identifier: Apache-2.0

package network

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// tapPrefix names our own links, which are nobody's network.
const tapPrefix = "cloister"

// found is what an engine has put into the namespace.
type found struct {
	links []netlink.Link // without loopback and our taps, in the order of their making
	guest *guestv1.Network
}

// look dumps the namespace. The guest is to have what the engine made: names,
// addresses, routes and neighbours.
func look(h *netlink.Handle) (found, error) {
	var f found
	all, err := h.LinkList()
	if err != nil {
		return f, fmt.Errorf("list links: %w", err)
	}
	names := map[int]string{}
	f.guest = &guestv1.Network{}
	slices.SortFunc(all, func(a, b netlink.Link) int { return cmp.Compare(a.Attrs().Index, b.Attrs().Index) })
	if all, err = forGuest(all); err != nil {
		return f, err
	}
	for _, l := range all {
		a := l.Attrs()
		names[a.Index] = a.Name
		f.links = append(f.links, l)
		link := &guestv1.Link{
			Mac: a.HardwareAddr.String(), Name: a.Name, Mtu: uint32(a.MTU), Up: a.RawFlags&unix.IFF_UP != 0, NoArp: a.RawFlags&unix.IFF_NOARP != 0,
		}
		addrs, err := h.AddrList(l, netlink.FAMILY_ALL)
		if err != nil {
			return f, fmt.Errorf("addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addrs {
			link.Addresses = append(link.Addresses, addr.IPNet.String())
		}
		f.guest.Links = append(f.guest.Links, link)
	}
	if err := routes(h, names, f.guest); err != nil {
		return f, err
	}
	return f, neighbours(h, names, f.guest)
}

// forGuest are the links that a guest gets, or why one of them cannot be handed to it: a guest has all of its network or is not started.
func forGuest(all []netlink.Link) (mine []netlink.Link, err error) {
	here := map[int]string{}
	for _, l := range all {
		here[l.Attrs().Index] = l.Attrs().Name
	}
	for _, l := range all {
		a := l.Attrs()
		if !engineMade(l) || a.EncapType != "ether" && a.RawFlags&unix.IFF_UP == 0 { // a tunnel that is not in use: a kernel's own, as a rule
			continue
		}
		reason := unfit(l)
		if below := here[a.ParentIndex]; below != "" && a.NetNsID < 0 && l.Type() != "veth" {
			reason = fmt.Sprintf("it stands on %s, which is the guest's as well: leave that one out of the namespace", below)
		}
		if reason != "" {
			return nil, fmt.Errorf("link %s of kind %s cannot be a guest's: %s: %w", a.Name, l.Type(), reason, errdefs.ErrFailedPrecondition)
		}
		mine = append(mine, l)
	}
	return mine, nil
}

// unfit says why frames cannot be redirected between a link and a tap; "" where it has been seen to work.
func unfit(l netlink.Link) string {
	const instead = "give the namespace a veth, macvlan or ipvlan (mode l2 or l3)"
	kinds := []string{"device", "veth", "macvlan", "ipvlan", "vlan"}
	if v, ok := l.(*netlink.IPVlan); ok && v.Mode == netlink.IPVLAN_MODE_L3S {
		return "in mode l3s what comes goes to the sockets of the host and never to the link: make it in mode l2 or l3"
	}
	if l.Attrs().EncapType != "ether" || !slices.Contains(kinds, l.Type()) {
		return "nobody has tried whether its traffic can be redirected: " + instead
	}
	return ""
}

// engineMade is false for loopback, for our taps, and for the devices that a
// kernel puts into every namespace.
func engineMade(l netlink.Link) bool {
	a := l.Attrs()
	kernel := []string{"tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"}
	return a.RawFlags&unix.IFF_LOOPBACK == 0 && !strings.HasPrefix(a.Name, tapPrefix) && !slices.Contains(kernel, a.Name)
}

func routes(h *netlink.Handle, names map[int]string, out *guestv1.Network) error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
		if err != nil {
			return fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			// What the kernel makes of an address the guest's kernel makes as well.
			if names[r.LinkIndex] == "" || r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA {
				continue
			}
			out.Routes = append(out.Routes, guestRoute(r, names[r.LinkIndex], family))
		}
	}
	return nil
}

func guestRoute(r netlink.Route, link string, family int) *guestv1.Route {
	route := &guestv1.Route{
		Link: link, Scope: uint32(r.Scope), Metric: uint32(r.Priority), Mtu: uint32(r.MTU),
		Flags: uint32(r.Flags), Type: uint32(r.Type), Protocol: uint32(r.Protocol), Family: 4,
	}
	if family == netlink.FAMILY_V6 {
		route.Family = 6
	}
	if r.Dst != nil && !r.Dst.IP.IsUnspecified() {
		route.Destination = r.Dst.String()
	}
	if r.Gw != nil {
		route.Gateway = r.Gw.String()
	}
	if r.Src != nil {
		route.Source = r.Src.String()
	}
	return route
}

// neighbours are those that somebody entered for good; the others are learnt.
func neighbours(h *netlink.Handle, names map[int]string, out *guestv1.Network) error {
	for index, name := range names {
		list, err := h.NeighList(index, netlink.FAMILY_ALL)
		if err != nil {
			return fmt.Errorf("neighbours of %s: %w", name, err)
		}
		for _, n := range list {
			if n.State&netlink.NUD_PERMANENT != 0 && len(n.HardwareAddr) == 6 {
				out.Neighbours = append(out.Neighbours, &guestv1.Neighbour{Link: name, Ip: n.IP.String(), Mac: n.HardwareAddr.String()})
			}
		}
	}
	slices.SortFunc(out.Neighbours, func(a, b *guestv1.Neighbour) int {
		return cmp.Or(cmp.Compare(a.GetLink(), b.GetLink()), cmp.Compare(a.GetIp(), b.GetIp()))
	})
	return nil
}
