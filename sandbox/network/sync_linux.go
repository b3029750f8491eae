// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// card is one of the machine's network cards and the link it stands for.
type card struct {
	tap  string
	mac  string // what the machine calls it by
	link int    // index of the engine's link, 0 while it is spare

	wired bool // link's traffic is redirected
}

// Check looks whether what is in the namespace now can be handed to the machine, and changes nothing there.
func (n *Namespace) Check() error {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer h.Close()
	f, err := look(h)
	if err != nil {
		return err
	}
	for _, l := range f.links {
		if _, err := n.take(l.Attrs().Index); err != nil {
			return fmt.Errorf("link %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// Sync redirects the links that are in the namespace now to the machine's cards
// and returns what the guest is to have. It may be called whenever something has
// changed.
func (n *Namespace) Sync() (*guestv1.Network, error) {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return nil, fmt.Errorf("network namespace: %w", err)
	}
	defer h.Close()
	f, err := look(h)
	if err != nil {
		return nil, err
	}
	n.release(f.links)
	for i, l := range f.links {
		c, err := n.take(l.Attrs().Index)
		if err != nil {
			return nil, fmt.Errorf("link %s: %w", l.Attrs().Name, err)
		}
		tap, err := h.LinkByName(c.tap)
		if err != nil {
			return nil, fmt.Errorf("tap %s: %w", c.tap, err)
		}
		if err := c.connect(h, l, tap); err != nil {
			return nil, err
		}
		guest := f.guest.GetLinks()[i]
		guest.Mac, guest.NewMac = c.mac, guest.GetMac()
	}
	return f.guest, nil
}

// release makes the cards of links that are gone spare again; the kernel has
// taken their filters away with the link.
func (n *Namespace) release(links []netlink.Link) {
	there := map[int]bool{}
	for _, l := range links {
		there[l.Attrs().Index] = true
	}
	for _, c := range n.cards {
		if !there[c.link] {
			c.link, c.wired = 0, false
		}
	}
}

func (n *Namespace) take(link int) (*card, error) {
	var spare *card
	for _, c := range n.cards {
		if c.link == link {
			return c, nil
		}
		if c.link == 0 && spare == nil {
			spare = c
		}
	}
	if spare == nil {
		return nil, fmt.Errorf("all %d network cards of the machine are taken: set machine.nics in the config to more: %w", len(n.cards), errdefs.ErrResourceExhausted)
	}
	spare.link = link
	return spare, nil
}

// connect redirects a link's traffic, once, and has the tap take frames of its size.
func (c *card) connect(h *netlink.Handle, link, tap netlink.Link) error {
	if tap.Attrs().MTU != link.Attrs().MTU {
		if err := h.LinkSetMTU(tap, link.Attrs().MTU); err != nil {
			return fmt.Errorf("mtu of %s: %w", c.tap, err)
		}
	}
	if c.wired {
		return nil
	}
	if err := wire(h, link, tap); err != nil {
		return err
	}
	c.wired = true
	return nil
}

// Watch calls changed after links, addresses, routes or neighbours have changed,
// once for all changes that came in the meantime, until ctx is done.
func (n *Namespace) Watch(ctx context.Context, changed func()) error {
	done := make(chan struct{})
	wake := make(chan struct{}, 1)
	links, addrs := make(chan netlink.LinkUpdate), make(chan netlink.AddrUpdate)
	routes, neighs := make(chan netlink.RouteUpdate), make(chan netlink.NeighUpdate)
	ns := netns.NsHandle(n.file.Fd())
	for _, subscribe := range []func() error{
		func() error {
			return netlink.LinkSubscribeWithOptions(links, done, netlink.LinkSubscribeOptions{Namespace: &ns})
		},
		func() error {
			return netlink.AddrSubscribeWithOptions(addrs, done, netlink.AddrSubscribeOptions{Namespace: &ns})
		},
		func() error {
			return netlink.RouteSubscribeWithOptions(routes, done, netlink.RouteSubscribeOptions{Namespace: &ns})
		},
		func() error {
			return netlink.NeighSubscribeWithOptions(neighs, done, netlink.NeighSubscribeOptions{Namespace: &ns})
		},
	} {
		if err := subscribe(); err != nil {
			close(done)
			return fmt.Errorf("watch network namespace: %w", err)
		}
	}
	go forward(wake, links, func(u netlink.LinkUpdate) bool { return engineMade(u.Link) })
	go forward(wake, addrs, func(netlink.AddrUpdate) bool { return true })
	go forward(wake, routes, func(netlink.RouteUpdate) bool { return true })
	go forward(wake, neighs, func(u netlink.NeighUpdate) bool { return u.State&netlink.NUD_PERMANENT != 0 })
	go func() {
		defer close(done)
		for {
			select {
			case <-ctx.Done():
				return
			case <-wake:
				changed()
			}
		}
	}()
	return nil
}

// forward tells of a subscription's updates until it is closed. A change that the
// guest cannot learn of, such as a neighbour that was learnt, wakes nobody.
func forward[U any](wake chan<- struct{}, updates <-chan U, relevant func(U) bool) {
	for u := range updates {
		if !relevant(u) {
			continue
		}
		select {
		case wake <- struct{}{}:
		default: // told already
		}
	}
}
