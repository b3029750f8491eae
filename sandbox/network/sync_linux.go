// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"slices"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// NIC is one of the machine's NICs and the link that it stands for. The machine has a fixed number
// of them from boot: microvm has no hot-plug.
type card struct {
	tap  string
	mac  string // what the machine calls it by
	link int    // index of the engine's link, 0 while it is spare

	wired bool // link's traffic is redirected
}

// ErrEnded is Sync's error when a NIC's tap is gone, which the machine takes with it. It is no
// fault of the network: QEMU holds the tap's descriptor, and its end takes the link away.
var ErrEnded = errors.New("the machine has ended: its NICs are gone")

// Check looks whether all that is in the namespace now can be handed to the machine, and changes
// nothing there. It is asked before a machine is made, so that a link of the wrong kind fails the
// start while nothing has to be taken back.
func (n *Namespace) Check() error {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer h.Close()
	all, err := whole(h.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	mine, left := choose(all, n.cards)
	_, routes, err := describe(h, mine, nil)
	return errors.Join(append(append(left, routes...), err)...)
}

// changes bounds how often Sync begins again because a link went or got another name meanwhile.
const changes = 8

// Sync redirects the links that are in the namespace now to the machine's NICs. It returns what the
// guest is to have, and why the guest does not have the rest, which is not redirected. It may be
// called whenever something has changed. Sync may be called in any state of the namespace and may
// be repeated: what is redirected stays so without a gap. One call at a time, as for every method.
func (n *Namespace) Sync() (guest *guestv1.Network, left []error, err error) {
	for range changes {
		if guest, left, err = n.sync(); !errors.Is(err, errChanged) {
			break
		}
	}
	return guest, left, err
}

func (n *Namespace) sync() (guest *guestv1.Network, left []error, err error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, nil, fmt.Errorf("network namespace: %w", err)
	}
	defer h.Close()
	all, err := whole(h.LinkList)
	if err != nil {
		return nil, nil, fmt.Errorf("list links: %w", err)
	}
	mine, left := choose(all, n.cards)
	// First: a NIC that is freed here serves a new link in the same call.
	if err := n.release(h, all, mine); err != nil {
		return nil, nil, err
	}
	var wired []chosen
	for _, m := range mine {
		// The list was made before; a tap that is not in it has been gone for good.
		i := slices.IndexFunc(all, func(l netlink.Link) bool { return l.Attrs().Name == m.card.tap })
		if i < 0 {
			return nil, nil, ErrEnded
		}
		// One link that cannot be redirected must not cost the guest the others.
		err := m.card.connect(h, m.link, all[i])
		if err == nil {
			wired = append(wired, m)
		} else if !errors.Is(err, unix.ENODEV) { // of a link that has just gone it will be told
			left = append(left, fmt.Errorf("link %s of kind %s cannot be passed to a guest: %w", m.link.Attrs().Name, m.link.Type(), err))
		}
	}
	guest, routes, err := describe(h, wired, n.former)
	if err != nil {
		return nil, nil, err
	}
	n.former = n.former.remember(guest, wired)
	return guest, append(left, routes...), n.readSysctls(guest)
}

// release makes the NICs spare again whose links are gone, or are the guest's no longer.
func (n *Namespace) release(h *netlink.Handle, all []netlink.Link, mine []chosen) error {
	for _, c := range n.cards {
		if c.link == 0 || slices.ContainsFunc(mine, func(m chosen) bool { return m.card == c && m.link.Attrs().Index == c.link }) {
			continue
		}
		// Both ends lose their filters, or the tap would go on sending to an index that the kernel
		// may give to a new link.
		for _, l := range all { // what is gone has taken its filters away
			if l.Attrs().Index != c.link && l.Attrs().Name != c.tap {
				continue
			}
			if err := dropIngress(h, l); err != nil {
				return err
			}
		}
		c.link, c.wired = 0, false
	}
	return nil
}

// connect redirects a link's traffic, once, and has the tap take frames of its size. After an error
// nothing is redirected. A frame longer than the tap's MTU would be dropped between the two,
// without a word to the sender.
func (c *card) connect(h *netlink.Handle, link, tap netlink.Link) (err error) {
	c.link = link.Attrs().Index
	defer func() {
		if c.wired = err == nil; !c.wired {
			err = errors.Join(err, dropIngress(h, link), dropIngress(h, tap))
		}
	}()
	if tap.Attrs().MTU != link.Attrs().MTU {
		if err := h.LinkSetMTU(tap, link.Attrs().MTU); err != nil {
			return fmt.Errorf("mtu %d of %s: %w", link.Attrs().MTU, c.tap, err)
		}
	}
	// Wiring anew takes the queues off for a moment, and a running guest would lose frames at each
	// look.
	if c.wired && hasIngress(h, link) {
		return nil
	}
	return wire(h, link, tap)
}
