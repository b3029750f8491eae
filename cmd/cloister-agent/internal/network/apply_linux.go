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

// applier makes the guest's links what the host says they are. It keeps what it has set.
type applier struct {
	sysctls sysctls
}

// apply makes links, addresses, routes, rules and neighbours what n says, and removes what the
// named links have beyond it. One link that fails does not stop the others. No link goes up before
// its sysctls are in force: what the host asks for, then what named sets once the links have their
// names (nil: nothing).
func (a *applier) apply(n *guestv1.Network, named func() error) error {
	errs := []error{freeNames(n.GetLinks())}
	if err := a.sysctls.apply("", n.GetSysctls(), func(name string) string { return name }); err != nil {
		return errors.Join(append(errs, err)...)
	}
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
	if named != nil {
		if err := named(); err != nil {
			return errors.Join(append(errs, err)...)
		}
	}
	only4 := map[string]bool{}
	each(func(want *guestv1.Link) error {
		six, err := hasIPv6(want.GetName())
		only4[want.GetName()] = !six
		if err != nil {
			return err
		}
		return useLink(links[want.GetName()], want, six)
	})
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
// changed, or by the name that an earlier Apply gave it.
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

// prepareLink gives a NIC its name, address and settings. A new one is still down.
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
	if have.Name != want.GetName() || newMAC != nil {
		if err := rename(link, want, newMAC); err != nil {
			return nil, err
		}
	}
	if err := setMTU(link, int(want.GetMtu())); err != nil {
		return nil, err
	}
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

// rename needs the link down; its alias keeps the machine's address.
func rename(link netlink.Link, want *guestv1.Link, mac net.HardwareAddr) error {
	if err := netlink.LinkSetDown(link); err != nil {
		return fmt.Errorf("set down: %w", err)
	}
	if mac != nil {
		if err := netlink.LinkSetAlias(link, want.GetMac()); err != nil {
			return fmt.Errorf("note address: %w", err)
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
// takes off all others of it.
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
			addr.Flags |= unix.IFA_F_NODAD // the host's side has seen to it
		}
		wanted = append(wanted, addr)
	}
	return wanted, nil
}

// noOwnLinkLocal keeps the kernel from making an address beside the host's: links of one parent, as
// ipvlan's, share the address that it would be made of, and only the host's is answered.
func noOwnLinkLocal(name string) error {
	const none = "1"
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/addr_gen_mode", []byte(none), 0)
	if errors.Is(err, fs.ErrNotExist) { // no IPv6
		return nil
	}
	return err
}
