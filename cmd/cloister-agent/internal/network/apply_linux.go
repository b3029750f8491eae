// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// LoopbackUp makes 127.0.0.1 and ::1 answer.
func LoopbackUp() error {
	lo, err := netlink.LinkByName("lo") // asks for this one link: no dump
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set loopback up: %w", err)
	}
	return nil
}

// applier makes the guest's links what the host says they are. It keeps what it has set. It is not
// safe for concurrent use.
type applier struct {
	sysctls sysctls
}

// apply makes links, addresses, routes, rules and neighbours what n says, and removes what the
// named links have beyond it. One link that fails does not stop the others. No link goes up before
// its sysctls are in force: what the host asks for, then what named sets once the links have their
// names (nil: nothing).
func (a *applier) apply(n *guestv1.Network, named func() error) error {
	// Names first: a link cannot be renamed to a name that another one still has.
	errs := []error{freeNames(n.GetLinks())}
	// Settings for all and default come before the links': a link that comes up takes the defaults.
	if err := a.sysctls.apply("", n.GetSysctls(), func(name string) string { return name }); err != nil {
		return errors.Join(append(errs, err)...)
	}
	// A link that failed is left out of everything after it, so that one broken NIC leaves the
	// others working.
	links, lost := map[string]netlink.Link{}, map[string]bool{}
	each := func(f func(want *guestv1.Link) error) {
		for _, want := range n.GetLinks() {
			if lost[want.GetName()] {
				continue
			}
			if err := f(want); err != nil {
				errs = append(errs, fmt.Errorf("link %s (%s): %w", want.GetName(), want.GetMac(), err))
				lost[want.GetName()] = true
				delete(links, want.GetName())
			}
		}
	}
	each(func(want *guestv1.Link) (err error) {
		links[want.GetName()], err = a.prepareLink(want)
		return err
	})
	// The workload's sysctls may name a link, so they need its final name, and must hold before it
	// is up: between up and a later sysctl, a forged router advertisement would be taken.
	if named != nil {
		if err := named(); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	// IPv6 is looked at only now, since the workload's sysctls may have switched it off.
	only4 := map[string]bool{}
	each(func(want *guestv1.Link) error {
		six, err := hasIPv6(want.GetName())
		only4[want.GetName()] = !six
		if err != nil {
			return err
		}
		return useLink(links[want.GetName()], want, six)
	})
	// Routes over a lost link would be refused one by one and hide the error that matters.
	routes := slices.DeleteFunc(slices.Clone(n.GetRoutes()), func(r *guestv1.Route) bool {
		return lost[r.GetLink()] || only4[r.GetLink()] && isRoute6(r)
	})
	neighbours := slices.DeleteFunc(slices.Clone(n.GetNeighbours()), func(n *guestv1.Neighbour) bool {
		return lost[n.GetLink()] || only4[n.GetLink()] && strings.Contains(n.GetIp(), ":")
	})
	return errors.Join(append(errs, applyRoutes(links, routes), applyRules(n.GetRules()), applyNeighbours(links, neighbours))...)
}

// freeNames has a NIC that is to be called otherwise give up its name to the one that is to have
// it: names can be swapped on the host.
func freeNames(wanted []*guestv1.Link) error {
	var errs []error
	for _, want := range wanted {
		have, err := findLink(want)
		if err != nil || have.Attrs().Name == want.GetName() {
			continue // who is not there is named later
		}
		if !slices.ContainsFunc(wanted, func(other *guestv1.Link) bool { return other.GetName() == have.Attrs().Name }) {
			continue
		}
		if err := setAside(&netlink.Handle{}, have); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// findLink looks for a NIC by its address, which is the machine's and not yet
// changed, or by the name that an earlier Apply gave it. The permanent address counts first: a NIC
// whose address was changed to the engine's still has that. Drivers without one are found by the
// alias, which rename leaves.
func findLink(want *guestv1.Link) (netlink.Link, error) {
	mac, err := net.ParseMAC(want.GetMac())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	all, err := whole(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	for _, l := range all {
		a := l.Attrs()
		if bytes.Equal(a.PermHWAddr, mac) || (a.PermHWAddr == nil && bytes.Equal(a.HardwareAddr, mac)) || a.Alias == want.GetMac() {
			return l, nil
		}
	}
	return nil, fmt.Errorf("no NIC has this address: %w", errdefs.ErrNotFound)
}

// prepareLink gives a NIC its name, address and settings. A new one is still down. It does not take
// an old link down unless it must: connections of the workload go on through it.
func (a *applier) prepareLink(want *guestv1.Link) (netlink.Link, error) {
	link, err := findLink(want)
	if err != nil {
		return nil, err
	}
	have := link.Attrs()
	newMAC, err := wantedMAC(want, have.HardwareAddr)
	if err != nil {
		return nil, err
	}
	// Only what differs is set; a rename takes the link down, and with that its routes.
	if have.Name != want.GetName() || newMAC != nil {
		if err := rename(link, want, newMAC); err != nil {
			return nil, err
		}
	}
	if err := setMTU(link, int(want.GetMtu())); err != nil {
		return nil, err
	}
	// The host's link is an ipvlan or a tunnel then: who asks for addresses there gets no answer.
	if want.GetNoArp() != (have.RawFlags&unix.IFF_NOARP != 0) {
		set := netlink.LinkSetARPOn
		if want.GetNoArp() {
			set = netlink.LinkSetARPOff
		}
		if err := set(link); err != nil {
			return nil, fmt.Errorf("set ARP on or off: %w", err)
		}
	}
	settings, err := withIPv6(want)
	if err != nil {
		return nil, err
	}
	// Keyed by the machine's address and not by name, which may change.
	return link, a.sysctls.apply(want.GetMac(), settings, ofLink(want.GetName()))
}

// setMTU takes a link down that gets large enough for IPv6 (RFC 8200, section 5): its settings are
// the kernel's defaults at first.
func setMTU(link netlink.Link, mtu int) error {
	const least6 = 1280
	have := link.Attrs().MTU
	if mtu == 0 || mtu == have {
		return nil
	}
	// The kernel makes the IPv6 part of the link at that moment, with router advertisements
	// accepted: down, it takes none before its settings are in force.
	if have < least6 && mtu >= least6 {
		if err := netlink.LinkSetDown(link); err != nil {
			return fmt.Errorf("set down: %w", err)
		}
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("set MTU %d: %w", mtu, err)
	}
	return nil
}

// useLink gives a link its addresses, those of IPv6 where it has that, and sets it up or down.
// Addresses come before up, so that the link never speaks with another one.
func useLink(link netlink.Link, want *guestv1.Link, six bool) error {
	if err := applyAddresses(link, want, six); err != nil {
		return err
	}
	set := netlink.LinkSetDown
	if want.GetUp() {
		set = netlink.LinkSetUp
	}
	if err := set(link); err != nil {
		return fmt.Errorf("set up or down: %w", err)
	}
	return nil
}

// wantedMAC is nil where the NIC has the address already or is to keep its own.
func wantedMAC(want *guestv1.Link, have net.HardwareAddr) (net.HardwareAddr, error) {
	if want.GetNewMac() == "" {
		return nil, nil
	}
	mac, err := net.ParseMAC(want.GetNewMac())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrInvalidArgument, err)
	}
	if bytes.Equal(mac, have) {
		return nil, nil
	}
	return mac, nil
}

// rename needs the link down; its alias keeps the machine's address. The order is alias, address,
// name: if it is cut short, findLink finds the link by permanent address or alias.
func rename(link netlink.Link, want *guestv1.Link, mac net.HardwareAddr) error {
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("set down: %w", err)
	}
	if mac != nil {
		if err := netlink.LinkSetAlias(link, want.GetMac()); err != nil {
			return fmt.Errorf("keep the old address as alias: %w", err)
		}
		if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
			return fmt.Errorf("set address %s: %w", mac, err)
		}
	}
	if link.Attrs().Name == want.GetName() {
		return nil
	}
	if err := netlink.LinkSetName(link, want.GetName()); err != nil {
		return fmt.Errorf("rename %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// applyAddresses takes off what is not wanted first: with the first address of a subnet the kernel
// takes off all others of it. Addresses that the kernel made itself stay: a link-local address goes
// only where the host names another one.
func applyAddresses(link netlink.Link, want *guestv1.Link, six bool) error {
	wanted, err := parseAddresses(want, six)
	if err != nil {
		return err
	}
	keep, linkLocal := map[string]bool{}, false
	for _, addr := range wanted {
		keep[addr.IPNet.String()] = true
		linkLocal = linkLocal || addr.IP.IsLinkLocalUnicast()
	}
	have, err := whole(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("list addresses: %w", err)
	}
	for _, a := range have {
		if keep[a.IPNet.String()] || a.IP.IsLinkLocalUnicast() && !linkLocal {
			continue
		}
		// The kernel has taken it off with another address of the subnet.
		if err := netlink.AddrDel(link, &a); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("remove address %s: %w", a.IPNet, err)
		}
	}
	for _, addr := range wanted {
		if err := netlink.AddrReplace(link, addr); err != nil {
			return fmt.Errorf("add address %s: %w", addr.IPNet, err)
		}
	}
	if linkLocal {
		return noOwnLinkLocal(want.GetName())
	}
	return nil
}

// parseAddresses returns the addresses of a link, those of IPv6 only where six says so.
func parseAddresses(want *guestv1.Link, six bool) ([]*netlink.Addr, error) {
	var wanted []*netlink.Addr
	for _, cidr := range want.GetAddresses() {
		addr, err := netlink.ParseAddr(cidr)
		if err != nil {
			return nil, fmt.Errorf("address %q: %w: %w", cidr, errdefs.ErrInvalidArgument, err)
		}
		if addr.IP.To4() == nil {
			if !six {
				continue
			}
			// Duplicate address detection would make the address tentative, and a server that binds
			// to it right at its start would fail.
			addr.Flags |= unix.IFA_F_NODAD // the host's side has seen to it
		}
		wanted = append(wanted, addr)
	}
	return wanted, nil
}

// noOwnLinkLocal keeps the kernel from making an address beside the host's: links of one parent, as
// ipvlan's, share the address that it would be made of, and only the host's is answered. Mode 1
// makes no link-local address at all (IN6_ADDR_GEN_MODE_NONE of the kernel's if_link.h).
func noOwnLinkLocal(name string) error {
	const none = "1"
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/addr_gen_mode", []byte(none), 0)
	if errors.Is(err, fs.ErrNotExist) { // no IPv6
		return nil
	}
	return err
}
