// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// applyNeighbours sets the fixed neighbours that the engine's links have. One that fails does not
// stop the others.
func applyNeighbours(links map[string]netlink.Link, want []*guestv1.Neighbour) error {
	keep := map[string]bool{}
	var errs []error
	for _, w := range want {
		n, err := parseNeighbour(links, w)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if err := netlink.NeighSet(n); err != nil {
			errs = append(errs, fmt.Errorf("add neighbour %s: %w", n.IP, err))
		}
		// Kept even after an error: the old entry may still work.
		keep[fmt.Sprint(n.LinkIndex, n.IP)] = true
	}
	for _, link := range links {
		errs = append(errs, removeNeighbours(link, keep))
	}
	return errors.Join(errs...)
}

// removeNeighbours takes away what an earlier Apply has set for good; the
// others are the kernel's own findings.
func removeNeighbours(link netlink.Link, keep map[string]bool) error {
	have, err := whole(func() ([]netlink.Neigh, error) { return netlink.NeighList(link.Attrs().Index, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list neighbours: %w", err)
	}
	for i := range have {
		n := &have[i]
		if n.State != netlink.NUD_PERMANENT || keep[fmt.Sprint(n.LinkIndex, n.IP)] {
			continue
		}
		if err := netlink.NeighDel(n); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove neighbour %s: %w", n.IP, err)
		}
	}
	return nil
}

// parseNeighbour makes the entry permanent, so that the kernel never asks for it and
// removeNeighbours can tell it from its own.
func parseNeighbour(links map[string]netlink.Link, w *guestv1.Neighbour) (*netlink.Neigh, error) {
	link, ok := links[w.GetLink()]
	if !ok {
		return nil, fmt.Errorf("neighbour on %q, which is not a link of the request: %w", w.GetLink(), errdefs.ErrInvalidArgument)
	}
	ip := net.ParseIP(w.GetIp())
	if ip == nil {
		return nil, fmt.Errorf("neighbour %q: %w", w.GetIp(), errdefs.ErrInvalidArgument)
	}
	mac, err := net.ParseMAC(w.GetMac())
	if err != nil {
		return nil, fmt.Errorf("neighbour %s: %w: %w", ip, errdefs.ErrInvalidArgument, err)
	}
	return &netlink.Neigh{LinkIndex: link.Attrs().Index, State: netlink.NUD_PERMANENT, IP: ip, HardwareAddr: mac}, nil
}
