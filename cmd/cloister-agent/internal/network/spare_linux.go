// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"cloister/cmd/cloister-agent/internal/held"
	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sys"
)

// Spare is a network namespace that nobody enters. The machine's NICs wait there
// until the host says what they are: a workload without a network has loopback
// alone. Where the agent has left the namespace in which the NICs come, that is it.
//
// A NIC is down while it is there, and has the kernel's default settings when it comes back. The
// machine has all its NICs from boot, since microvm has no hot-plug.
type Spare struct {
	applier
	own, spare *os.File
}

// NewSpare gives a Spare whose namespace is made when a NIC goes there: to make
// one takes as long as all else that Configure does. Errors of the namespace come from the first
// Apply that needs it.
func NewSpare() (*Spare, error) {
	own, err := os.Open("/proc/self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("own network namespace: %w", err)
	}
	first, err := held.Open(held.First)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("first network namespace: %w", err)
	}
	return &Spare{own: own, spare: first}, nil
}

// open is called with the caller's lock. The thread that unshared is never used again: another
// goroutine on it would be in that namespace.
func (s *Spare) open() error {
	if s.spare != nil {
		return nil
	}
	err := sys.OnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		s.spare, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		return fmt.Errorf("namespace for spare NICs: %w", err)
	}
	return nil
}

// Apply makes the guest's network what n says. The NICs that it needs are brought in
// first, and those that it does not name are put away, whose names may be wanted. named
// is called once the links have their names and before any goes up; nil: nothing is. It may be
// called again after an error: what was done is found and not done twice.
func (s *Spare) Apply(n *guestv1.Network, named func() error) error {
	// All of them are brought in before any is named, so that names can be swapped.
	var wanted []net.HardwareAddr
	for _, l := range n.GetLinks() {
		mac, err := net.ParseMAC(l.GetMac())
		if err != nil {
			return fmt.Errorf("link %s: %w: %w", l.GetName(), errdefs.ErrInvalidArgument, err)
		}
		if err := s.fetch(mac); err != nil {
			return err
		}
		wanted = append(wanted, mac)
	}
	// stash comes before apply, and apply runs even after an error of stash: the links that are
	// there should work.
	return errors.Join(s.stash(wanted), s.apply(n, named))
}

// stash puts every NIC away that is not wanted. Links that a workload has made
// are no NICs.
func (s *Spare) stash(wanted []net.HardwareAddr) error {
	all, err := whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range all {
		if !isCard(l) || slices.ContainsFunc(wanted, func(mac net.HardwareAddr) bool { return isNamed(l, mac) }) {
			continue
		}
		if err := s.open(); err != nil {
			return err
		}
		if err := move(&netlink.Handle{}, l, s.spare); err != nil {
			return err
		}
		// A link that leaves a namespace loses its settings; kept, they would be taken for in
		// force.
		s.sysctls.forget(machineAddress(l))
	}
	return nil
}

// fetch brings the NIC with that address back, if it is among the spare ones. A NIC that is nowhere
// is not an error here; apply says which one is missing.
func (s *Spare) fetch(mac net.HardwareAddr) error {
	if s.spare == nil {
		return nil
	}
	// One family: the small kernel has not all that netlink would open.
	h, err := netlink.NewHandleAt(netns.NsHandle(s.spare.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("spare NICs: %w", err)
	}
	defer h.Close()
	all, err := whole(h.LinkList)
	if err != nil {
		return fmt.Errorf("list spare NICs: %w", err)
	}
	for _, l := range all {
		if isCard(l) && isNamed(l, mac) {
			return move(h, l, s.own)
		}
	}
	return nil
}

// isCard tells NICs of the machine from links that a workload has made: only they have a virtio
// device below them.
func isCard(l netlink.Link) bool { return l.Attrs().ParentDevBus == "virtio" }

// isNamed tells whether the machine knows the NIC by that address.
func isNamed(l netlink.Link, mac net.HardwareAddr) bool {
	a := l.Attrs()
	return bytes.Equal(a.PermHWAddr, mac) || a.Alias == mac.String() ||
		a.PermHWAddr == nil && bytes.Equal(a.HardwareAddr, mac)
}

// machineAddress is what the machine calls a NIC by.
func machineAddress(l netlink.Link) string {
	a := l.Attrs()
	if a.Alias != "" {
		return a.Alias
	}
	if a.PermHWAddr != nil {
		return a.PermHWAddr.String()
	}
	return a.HardwareAddr.String()
}

// move puts a NIC into another namespace, under a name that is free there. The name may be taken in
// the other namespace, hence a name that comes from the index.
func move(h *netlink.Handle, l netlink.Link, to *os.File) error {
	if err := setAside(h, l); err != nil {
		return err
	}
	if err := h.LinkSetNsFd(l, int(to.Fd())); err != nil {
		return fmt.Errorf("move NIC %s: %w", l.Attrs().Name, err)
	}
	return nil
}

// setAside takes a NIC down and gives it a name that no other has. A link must be down to be
// renamed. Indexes are unique in a namespace, so the name is too.
func setAside(h *netlink.Handle, l netlink.Link) error {
	a := l.Attrs()
	if err := h.LinkSetDown(l); err != nil {
		return fmt.Errorf("set NIC %s down: %w", a.Name, err)
	}
	if err := h.LinkSetName(l, fmt.Sprintf("card%d", a.Index)); err != nil {
		return fmt.Errorf("rename NIC %s: %w", a.Name, err)
	}
	return nil
}
