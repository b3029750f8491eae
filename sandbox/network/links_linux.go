// SPDX-License-Identifier: Apache-2.0

package network

import (
	"cmp"
	"fmt"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// describe is what the guest is to have of its links: names, addresses, routes, rules and
// neighbours, as the engine made them. Each link is called by its NIC's address. Routes and rules
// that the guest's kernel would not take are left out, with the reason, and former says which it
// keeps instead. A guest's network is told as a whole each time: the agent compares and changes
// what differs, so that a message that was lost costs nothing.
func describe(h *netlink.Handle, links []chosen, former former) (guest *guestv1.Network, left []error, err error) {
	guest = &guestv1.Network{}
	names, local := map[int]string{}, map[string]bool{}
	for _, c := range links {
		a := c.link.Attrs()
		names[a.Index] = a.Name
		link := &guestv1.Link{
			Mac: c.card.mac, NewMac: a.HardwareAddr.String(),
			Name: a.Name, Mtu: uint32(a.MTU), Up: a.RawFlags&unix.IFF_UP != 0, NoArp: a.RawFlags&unix.IFF_NOARP != 0,
		}
		addrs, err := whole(func() ([]netlink.Addr, error) { return h.AddrList(c.link, netlink.FAMILY_ALL) })
		if err != nil {
			return nil, nil, fmt.Errorf("addresses of %s: %w", a.Name, err)
		}
		for _, addr := range addrs {
			link.Addresses = append(link.Addresses, addr.IPNet.String())
			local[addr.IP.String()] = true
		}
		guest.Links = append(guest.Links, link)
	}
	lost, left, err := routes(h, names, local, guest)
	if err != nil {
		return nil, nil, err
	}
	left = append(left, former.keep(guest, links, lost)...)
	more, err := rules(h, names, guest)
	if err != nil {
		return nil, nil, err
	}
	return guest, append(left, more...), neighbours(h, names, guest)
}

// routes are those by links of these names, in all tables. One that asks for a source that is not
// the guest's would be an error there, and is left out, as is one with several next hops. A route
// of the kernel's own (table local, protocol kernel) comes with the address in the guest. Routes of
// router advertisements are left out, since the guest gets the advertisement itself. lost are the
// routes that the guest cannot have, also those by links that are not the guest's.
func routes(
	h *netlink.Handle, names map[int]string, local map[string]bool, out *guestv1.Network,
) (lost []*guestv1.Route, left []error, err error) {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := whole(func() ([]netlink.Route, error) {
			// The library lists the main table alone without this filter; 0 asks for all.
			return h.RouteListFiltered(family, &netlink.Route{Table: unix.RT_TABLE_UNSPEC}, netlink.RT_FILTER_TABLE)
		})
		if err != nil {
			return nil, nil, fmt.Errorf("list routes: %w", err)
		}
		for _, r := range list {
			// What the kernel makes of an address the guest's kernel makes as well.
			if r.Table == unix.RT_TABLE_LOCAL || r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA {
				continue
			}
			route := guestRoute(r, names[r.LinkIndex], family)
			reason := unfitRoute(r, route, names, local)
			switch {
			case reason != nil:
				left, lost = append(left, reason), append(lost, route)
			case route.GetLink() != "":
				out.Routes = append(out.Routes, route)
			case r.LinkIndex > loopback || len(r.MultiPath) > 0:
				lost = append(lost, route)
			}
		}
	}
	return lost, left, nil
}

// unfitRoute says why a route that concerns the guest's links is not for the guest.
func unfitRoute(r netlink.Route, route *guestv1.Route, names map[int]string, local map[string]bool) error {
	// One with several next hops has no link of its own.
	if slices.ContainsFunc(r.MultiPath, func(hop *netlink.NexthopInfo) bool { return names[hop.LinkIndex] != "" }) {
		return fmt.Errorf("route to %s with %d next hops cannot be passed to a guest: give it one: %w",
			r.Dst, len(r.MultiPath), errdefs.ErrFailedPrecondition)
	}
	if route.GetLink() != "" && r.Src != nil && !local[r.Src.String()] {
		return fmt.Errorf("route to %s by %s cannot be passed to a guest: its source %s is an address of no link that the guest "+
			"has: give one of them the address, or the route no source: %w",
			cmp.Or(route.GetDestination(), "everywhere"), route.GetLink(), r.Src, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// loopback is LOOPBACK_IFINDEX of the kernel. Its routes are those that lead nowhere (unreachable,
// blackhole).
const loopback = 1

// guestRoute leaves out what is the kernel's default: no destination is "everywhere", no table is
// main.
func guestRoute(r netlink.Route, link string, family int) *guestv1.Route {
	route := &guestv1.Route{
		Link: link, Scope: uint32(r.Scope), Metric: uint32(r.Priority), Mtu: uint32(r.MTU),
		Flags: uint32(r.Flags), Type: uint32(r.Type), Protocol: uint32(r.Protocol), Family: 4,
	}
	if family == netlink.FAMILY_V6 {
		route.Family = 6
	}
	if r.Table != unix.RT_TABLE_MAIN {
		route.Table = uint32(r.Table)
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

// neighbours are those that somebody entered for good; the others are learnt. They are sorted since
// the order of the map would make two equal networks differ.
func neighbours(h *netlink.Handle, names map[int]string, out *guestv1.Network) error {
	for index, name := range names {
		list, err := whole(func() ([]netlink.Neigh, error) { return h.NeighList(index, netlink.FAMILY_ALL) })
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
