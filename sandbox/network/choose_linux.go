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
)

// tapPrefix names our own links, which are nobody's network. cAdvisor, and with it the kubelet,
// lists every link of a pod's namespace as one of the pod's but for those whose names begin with
// veth, docker or lo.
const tapPrefix = "vethcloister"

// chosen is a link that is the guest's, and the NIC that stands for it. The pair holds for one look
// at the namespace: the link may be gone when the kernel is asked about it.
type chosen struct {
	link netlink.Link
	card *card
}

// choose gives the NICs to the links that an engine has put into the namespace, and says of every
// other link why the guest cannot have it. A link that has a NIC keeps it; the others come in the
// order of their making. Nothing is changed. It decides without the kernel, so that its tests need
// no namespace. A reason in left is ErrFailedPrecondition where the link is of the wrong kind and
// ErrResourceExhausted where NICs are lacking.
func choose(all []netlink.Link, cards []*card) (mine []chosen, left []error) {
	// The kernel lists links in the order of its hash table. By index the first link of an engine
	// becomes the first NIC, in every start the same one.
	all = slices.SortedFunc(slices.Values(all), func(a, b netlink.Link) int { return cmp.Compare(a.Attrs().Index, b.Attrs().Index) })
	leave := func(l netlink.Link, reason string, class error) {
		left = append(left, fmt.Errorf("link %s of kind %s cannot be passed to a guest: %s: %w", l.Attrs().Name, l.Type(), reason, class))
	}
	var more []netlink.Link
	spare := slices.Clone(cards)
	for _, l := range all {
		a := l.Attrs()
		// a tunnel that is not in use: a kernel's own, as a rule
		if !engineMade(l) || a.EncapType != "ether" && a.RawFlags&unix.IFF_UP == 0 {
			continue
		}
		if reason := cmp.Or(unfit(l), stacked(l, all, cards)); reason != "" {
			leave(l, reason, errdefs.ErrFailedPrecondition)
			continue
		}
		if c := holder(cards, l); c != nil {
			mine = append(mine, chosen{l, c})
			spare = slices.DeleteFunc(spare, func(s *card) bool { return s == c })
			continue
		}
		more = append(more, l)
	}
	// Links that have a NIC were served first: a new link with a lower index must not move a
	// running guest's eth0 to another NIC.
	for i, l := range more {
		if i < len(spare) {
			mine = append(mine, chosen{l, spare[i]})
			continue
		}
		leave(l, fmt.Sprintf("all %d NICs of the machine are taken: set machine.nics in the config to more", len(cards)),
			errdefs.ErrResourceExhausted)
	}
	return mine, left
}

// holder finds the NIC that stands for a link, by index: engines rename links while the guest runs.
func holder(cards []*card, l netlink.Link) *card {
	i := slices.IndexFunc(cards, func(c *card) bool { return c.link == l.Attrs().Index })
	if i < 0 {
		return nil
	}
	return cards[i]
}

// stacked reports a conflict between a link and its parent (VLAN, macvlan) in the same namespace:
// both would receive the same frames. A link that has a NIC keeps it, whichever came first.
func stacked(l netlink.Link, all []netlink.Link, cards []*card) string {
	for _, other := range all {
		switch {
		case standsOn(l, other) && holder(cards, l) == nil:
			return fmt.Sprintf("it is a child of %s, which is the guest's and gets its traffic first: "+
				"leave one of the two out of the namespace",
				other.Attrs().Name)
		case standsOn(other, l) && holder(cards, other) != nil:
			return fmt.Sprintf("its child %s is the guest's: leave one of the two out of the namespace", other.Attrs().Name)
		}
	}
	return ""
}

// standsOn reports whether upper is made on lower in this namespace. A ParentIndex counts there
// only if the kernel names no other namespace for it. The index of a veth's parent is that of its
// other end.
func standsOn(upper, lower netlink.Link) bool {
	a := upper.Attrs()
	return a.ParentIndex != 0 && a.ParentIndex == lower.Attrs().Index && a.NetNsID < 0 && upper.Type() != "veth"
}

// unfit says why frames cannot be redirected between a link and a tap; "" where it has been seen to
// work. The list is of kinds that have been tried, not of those that are known to fail. With a link
// whose frames are lost a guest would start and reach nobody.
func unfit(l netlink.Link) string {
	const instead = "give the namespace a veth, macvlan or ipvlan (mode l2 or l3)"
	kinds := []string{"device", "veth", "macvlan", "ipvlan", "vlan"}
	// l3s hands packets to the IP layer by netfilter, behind the place where tc's ingress filters
	// are.
	if v, ok := l.(*netlink.IPVlan); ok && v.Mode == netlink.IPVLAN_MODE_L3S {
		return "in mode l3s packets go to sockets of the host and never to the link: create it in mode l2 or l3"
	}
	if l.Attrs().EncapType != "ether" || !slices.Contains(kinds, l.Type()) {
		return "this kind is not supported: " + instead
	}
	return ""
}

// engineMade is false for loopback, for our taps, and for the devices that a kernel puts into every
// namespace. The names are those that the modules of tunnels make in each new namespace
// (fb_tunnels_only_for_init_net is 0).
func engineMade(l netlink.Link) bool {
	a := l.Attrs()
	kernel := []string{"tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0"}
	return a.RawFlags&unix.IFF_LOOPBACK == 0 && !strings.HasPrefix(a.Name, tapPrefix) && !slices.Contains(kernel, a.Name)
}
