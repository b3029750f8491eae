// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"os"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// hostPorts is the first of the ports that the namespace's host side keeps for its own outgoing
// connections: a name server of the engine dials from there. All below are the guest's. The mask of
// the redirect's filter follows from it. The value is a power-of-two boundary, so that one mask
// decides: a port whose upper four bits are set is the host's.
const hostPorts = 0xf000

// Order of the filters on a link: the first that matches decides.
const (
	prioNeighbours = iota + 1 // ARP and IPv6 neighbour discovery: both sides
	prioHostPorts             // answers to the host side's own connections: host
	prioGuest                 // everything else: guest
)

// GuestPorts are the local ports that are left to the guest, as its kernel wants
// them written.
func GuestPorts() string { return fmt.Sprintf("32768 %d", hostPorts-1) }

// ownPorts is what KeepHostPorts writes, and the mark by which Claims finds a namespace.
func ownPorts() string { return fmt.Sprintf("%d 65535", hostPorts) }

// KeepHostPorts has the host side of the namespace choose its ports from its own part, so that
// answers can be told from the guest's traffic. The record has the effect before. Connections that
// exist keep their ports: the namespace is new as a rule.
func (n *Namespace) KeepHostPorts() error {
	return n.do(func() error {
		if err := os.WriteFile(portRange, []byte(ownPorts()), 0); err != nil {
			return fmt.Errorf("local ports of the network namespace: %w", err)
		}
		return nil
	})
}

// wire redirects everything that arrives at the link to the tap and the reverse, but for what the
// host's side of the namespace needs. After an error some filters may be there; connect takes them
// off. It is not atomic: until the last filter is in place, frames go to the host side of the
// namespace.
func wire(h *netlink.Handle, link, tap netlink.Link) error {
	for _, l := range []netlink.Link{link, tap} {
		// What a dead sandbox left there leads to a tap that is gone.
		if err := dropIngress(h, l); err != nil {
			return err
		}
		if err := h.QdiscAdd(ingress(l)); err != nil {
			return fmt.Errorf("ingress of %s: %w", l.Attrs().Name, err)
		}
	}
	if err := h.LinkSetUp(tap); err != nil {
		return fmt.Errorf("set %s up: %w", tap.Attrs().Name, err)
	}
	// Neighbour discovery is mirrored, since both sides answer for the address and both need to
	// learn the router's. TCP and UDP to the host side's ports pass; everything else is the
	// guest's. Ports are looked for at fixed offsets, so a packet with IP options or extension
	// headers is the guest's.
	filters := []netlink.Filter{
		filter(tap, prioGuest, unix.ETH_P_ALL, nil, redirect(link)),
		filter(link, prioNeighbours, unix.ETH_P_ARP, nil, mirror(tap)),
		// ICMPv6 neighbour discovery is types 134 to 137 from routers and neighbours (RFC 4861),
		// the first byte behind the header.
		filter(link, prioNeighbours+10, unix.ETH_P_IPV6,
			[]nl.TcU32Key{nextHeader(unix.IPPROTO_ICMPV6), {Mask: 0xfe000000, Val: 134 << 24, Off: 40}}, mirror(tap)),
		filter(link, prioNeighbours+11, unix.ETH_P_IPV6,
			[]nl.TcU32Key{nextHeader(unix.IPPROTO_ICMPV6), {Mask: 0xfe000000, Val: 136 << 24, Off: 40}}, mirror(tap)),
		filter(link, prioHostPorts+20, unix.ETH_P_IP, []nl.TcU32Key{protocol(unix.IPPROTO_TCP), plainHeader(), destination(20)}, nil),
		filter(link, prioHostPorts+21, unix.ETH_P_IP, []nl.TcU32Key{protocol(unix.IPPROTO_UDP), plainHeader(), destination(20)}, nil),
		filter(link, prioHostPorts+30, unix.ETH_P_IPV6, []nl.TcU32Key{nextHeader(unix.IPPROTO_TCP), destination(40)}, nil),
		filter(link, prioHostPorts+31, unix.ETH_P_IPV6, []nl.TcU32Key{nextHeader(unix.IPPROTO_UDP), destination(40)}, nil),
		filter(link, prioGuest+50, unix.ETH_P_ALL, nil, redirect(tap)),
	}
	for _, f := range filters {
		if err := h.FilterAdd(f); err != nil {
			return fmt.Errorf("redirect %s and %s: filter %d: %w", link.Attrs().Name, tap.Attrs().Name, f.Attrs().Priority, err)
		}
	}
	return nil
}

// filter without an action lets pass what it matches: some kernels have no act_gact. Each filter
// has a priority of its own, since the kernel takes one protocol for each priority.
func filter(on netlink.Link, prio, proto uint16, keys []nl.TcU32Key, action netlink.Action) *netlink.U32 {
	f := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: on.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0),
			Priority: prio, Protocol: proto,
		},
		ClassId: netlink.MakeHandle(1, 1),
	}
	if action != nil {
		f.Actions = []netlink.Action{action}
	}
	if keys != nil {
		f.Sel = &nl.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Nkeys: uint8(len(keys)), Keys: keys}
	}
	return f
}

// Keys of u32 filters: offsets are from the network header (RFC 791, RFC 8200).
func protocol(p uint32) nl.TcU32Key   { return nl.TcU32Key{Mask: 0x00ff0000, Val: p << 16, Off: 8} }
func nextHeader(p uint32) nl.TcU32Key { return nl.TcU32Key{Mask: 0x0000ff00, Val: p << 8, Off: 4} }
func plainHeader() nl.TcU32Key        { return nl.TcU32Key{Mask: 0x0f000000, Val: 0x05000000, Off: 0} }

func destination(at int32) nl.TcU32Key { return nl.TcU32Key{Mask: hostPorts, Val: hostPorts, Off: at} }

// redirect takes the frame away from the host side.
func redirect(to netlink.Link) netlink.Action {
	return mirred(to, netlink.TCA_EGRESS_REDIR, netlink.TC_ACT_STOLEN)
}

// mirror sends a copy and lets the host side have the frame as well.
func mirror(to netlink.Link) netlink.Action {
	return mirred(to, netlink.TCA_EGRESS_MIRROR, netlink.TC_ACT_OK)
}

// mirred sends to the egress of a link: for a tap that is QEMU's read, for a veth its other end.
func mirred(to netlink.Link, how netlink.MirredAct, then netlink.TcAct) netlink.Action {
	a := netlink.NewMirredAction(to.Attrs().Index)
	a.MirredAction = how
	a.ActionAttrs.Action = then
	return a
}
