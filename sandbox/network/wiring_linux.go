// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"os"
	"strconv"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// hostPorts is the first of the ports that the namespace's host side keeps for
// its own outgoing connections: a name server of the engine dials from there.
// All below are the guest's. The mask of the redirect's filter follows from it.
const hostPorts = 0xf000

// Order of the filters on a link: the first that matches decides.
const (
	prioNeighbours = iota + 1 // ARP and IPv6 neighbour discovery: both sides
	prioHostPorts             // answers to the host side's own connections: host
	prioGuest                 // everything else: guest
)

// keepHostPorts has the host side of the namespace choose its ports from its own
// part, so that answers can be told from the guest's traffic.
func (n *Namespace) keepHostPorts() error {
	return n.do(func() error {
		return os.WriteFile("/proc/sys/net/ipv4/ip_local_port_range", []byte(strconv.Itoa(hostPorts)+"\t65535"), 0)
	})
}

// wire redirects everything that arrives at the link to the tap and the reverse,
// but for what the host's side of the namespace needs.
func (n *Namespace) wire(h *netlink.Handle, link, tap netlink.Link) error {
	for _, l := range []netlink.Link{link, tap} {
		qdisc := &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: l.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0)}}
		if err := h.QdiscReplace(qdisc); err != nil {
			return fmt.Errorf("ingress of %s: %w", l.Attrs().Name, err)
		}
	}
	if err := h.LinkSetMTU(tap, link.Attrs().MTU); err != nil {
		return fmt.Errorf("mtu of %s: %w", tap.Attrs().Name, err)
	}
	if err := h.LinkSetUp(tap); err != nil {
		return fmt.Errorf("set %s up: %w", tap.Attrs().Name, err)
	}
	filters := []netlink.Filter{
		filter(tap, prioGuest, unix.ETH_P_ALL, nil, redirect(link)),
		filter(link, prioNeighbours, unix.ETH_P_ARP, nil, mirror(tap)),
		// ICMPv6 neighbour discovery is types 133 to 137 (RFC 4861), in the first byte behind the header.
		filter(link, prioNeighbours+10, unix.ETH_P_IPV6, []nl.TcU32Key{nextHeader(unix.IPPROTO_ICMPV6), {Mask: 0xf8000000, Val: 0x80000000, Off: 40}}, mirror(tap)),
		filter(link, prioHostPorts+20, unix.ETH_P_IP, []nl.TcU32Key{protocol(unix.IPPROTO_TCP), plainHeader(), destination(20)}, pass()),
		filter(link, prioHostPorts+21, unix.ETH_P_IP, []nl.TcU32Key{protocol(unix.IPPROTO_UDP), plainHeader(), destination(20)}, pass()),
		filter(link, prioHostPorts+30, unix.ETH_P_IPV6, []nl.TcU32Key{nextHeader(unix.IPPROTO_TCP), destination(40)}, pass()),
		filter(link, prioHostPorts+31, unix.ETH_P_IPV6, []nl.TcU32Key{nextHeader(unix.IPPROTO_UDP), destination(40)}, pass()),
		filter(link, prioGuest+50, unix.ETH_P_ALL, nil, redirect(tap)),
	}
	for _, f := range filters {
		if err := h.FilterReplace(f); err != nil {
			return fmt.Errorf("redirect %s and %s: filter %d: %w", link.Attrs().Name, tap.Attrs().Name, f.Attrs().Priority, err)
		}
	}
	return nil
}

func filter(on netlink.Link, prio, proto uint16, keys []nl.TcU32Key, action netlink.Action) *netlink.U32 {
	f := &netlink.U32{
		FilterAttrs: netlink.FilterAttrs{LinkIndex: on.Attrs().Index, Parent: netlink.MakeHandle(0xffff, 0), Priority: prio, Protocol: proto},
		ClassId:     netlink.MakeHandle(1, 1),
		Actions:     []netlink.Action{action},
	}
	if keys != nil {
		f.Sel = &nl.TcU32Sel{Flags: nl.TC_U32_TERMINAL, Nkeys: uint8(len(keys)), Keys: keys}
	}
	return f
}

// Keys of u32 filters: offsets are from the network header (RFC 791, RFC 8200).
func protocol(p uint32) nl.TcU32Key    { return nl.TcU32Key{Mask: 0x00ff0000, Val: p << 16, Off: 8} }
func nextHeader(p uint32) nl.TcU32Key  { return nl.TcU32Key{Mask: 0x0000ff00, Val: p << 8, Off: 4} }
func plainHeader() nl.TcU32Key         { return nl.TcU32Key{Mask: 0x0f000000, Val: 0x05000000, Off: 0} }
func destination(at int32) nl.TcU32Key { return nl.TcU32Key{Mask: hostPorts, Val: hostPorts, Off: at} }

func redirect(to netlink.Link) netlink.Action {
	return mirred(to, netlink.TCA_EGRESS_REDIR, netlink.TC_ACT_STOLEN)
}
func mirror(to netlink.Link) netlink.Action {
	return mirred(to, netlink.TCA_EGRESS_MIRROR, netlink.TC_ACT_OK)
}

func mirred(to netlink.Link, how netlink.MirredAct, then netlink.TcAct) netlink.Action {
	a := netlink.NewMirredAction(to.Attrs().Index)
	a.MirredAction = how
	a.ActionAttrs.Action = then
	return a
}

func pass() netlink.Action {
	return &netlink.GenericAction{ActionAttrs: netlink.ActionAttrs{Action: netlink.TC_ACT_OK}}
}
