// SPDX-License-Identifier: Apache-2.0

package network

import (
	"cmp"
	"errors"
	"fmt"
	"net"
	"sort"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// defaultMetric6 is IP6_RT_PRIO_USER of the kernel's ip6_route.h, which an
// IPv6 route without a metric gets.
const defaultMetric6 = 1024

// applyRoutes sets what is wanted first and removes the rest then: for a moment there is a route
// too many, but never none.
func applyRoutes(links map[string]netlink.Link, want []*guestv1.Route) error {
	var routes []netlink.Route
	var errs []error
	for _, w := range want {
		r, err := parseRoute(links, w)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		routes = append(routes, r)
	}
	// A gateway is reached by a route without one: those come first. The order among equals is the
	// engine's.
	sort.SliceStable(routes, func(i, j int) bool { return routes[i].Gw == nil && routes[j].Gw != nil })
	keep := map[string]bool{}
	for i := range routes {
		keep[routeKey(&routes[i])] = true
		if err := netlink.RouteReplace(&routes[i]); err != nil {
			errs = append(errs, fmt.Errorf("add route %s: %w", routes[i], err))
		}
	}
	for _, link := range links {
		errs = append(errs, removeRoutes(link, keep))
	}
	return errors.Join(errs...)
}

// removeRoutes takes away what is not wanted, but for the kernel's own. Table local, and routes of
// an address or of a router advertisement, are made and removed by the kernel with what they belong
// to.
func removeRoutes(link netlink.Link, keep map[string]bool) error {
	// RT_TABLE_UNSPEC lists all tables.
	all := &netlink.Route{LinkIndex: link.Attrs().Index, Table: unix.RT_TABLE_UNSPEC}
	have, err := whole(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, all, netlink.RT_FILTER_OIF|netlink.RT_FILTER_TABLE)
	})
	if err != nil {
		return fmt.Errorf("list routes: %w", err)
	}
	for i := range have {
		r := &have[i]
		if r.Table == unix.RT_TABLE_LOCAL || r.Protocol == unix.RTPROT_KERNEL || r.Protocol == unix.RTPROT_RA || keep[routeKey(r)] {
			continue
		}
		// ESRCH: it went with another one, or with its address.
		if err := netlink.RouteDel(r); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("remove route %s: %w", r, err)
		}
	}
	return nil
}

// routeKey tells whether two routes are the same to the kernel. What a wanted one leaves out is
// filled in as the kernel does, or removeRoutes would take away what was just set.
func routeKey(r *netlink.Route) string {
	dst := "default"
	if r.Dst != nil {
		if ones, _ := r.Dst.Mask.Size(); ones > 0 {
			dst = r.Dst.String()
		}
	}
	metric := r.Priority
	if metric == defaultMetric6 {
		metric = 0
	}
	return fmt.Sprint(cmp.Or(r.Table, unix.RT_TABLE_MAIN), " ", r.LinkIndex, " ", dst, " ", r.Gw, " ", metric)
}

// parseRoute takes the numbers as the host read them from its kernel; both kernels share their
// meaning.
func parseRoute(links map[string]netlink.Link, w *guestv1.Route) (netlink.Route, error) {
	link, ok := links[w.GetLink()]
	if !ok {
		return netlink.Route{}, fmt.Errorf("route through %q, which is not a link of the request: %w", w.GetLink(),
			errdefs.ErrInvalidArgument)
	}
	r := netlink.Route{
		LinkIndex: link.Attrs().Index, Scope: netlink.Scope(w.GetScope() & 0xff), Priority: int(w.GetMetric()),
		MTU: int(w.GetMtu()), Flags: int(w.GetFlags()), Type: int(w.GetType()), Protocol: netlink.RouteProtocol(w.GetProtocol()),
		Table: int(w.GetTable()),
	}
	var err error
	if w.GetDestination() != "" {
		if _, r.Dst, err = net.ParseCIDR(w.GetDestination()); err != nil {
			return r, fmt.Errorf("route: %w: %w", errdefs.ErrInvalidArgument, err)
		}
	}
	if r.Gw, err = parseIP(w.GetGateway()); err != nil {
		return r, err
	}
	if r.Src, err = parseIP(w.GetSource()); err != nil {
		return r, err
	}
	if r.Dst == nil {
		r.Dst = anywhere(w, r.Gw, r.Src)
	}
	return r, nil
}

// anywhere is the default route of a family.
func anywhere(w *guestv1.Route, gateway, source net.IP) *net.IPNet {
	six := w.GetFamily() == 6
	for _, ip := range []net.IP{gateway, source} {
		six = six || (ip != nil && ip.To4() == nil)
	}
	if six {
		return &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	}
	return &net.IPNet{IP: net.IPv4zero.To4(), Mask: net.CIDRMask(0, 32)}
}

// isRoute6 tells whether a route is one of IPv6.
func isRoute6(w *guestv1.Route) bool {
	return w.GetFamily() == 6 || strings.Contains(w.GetDestination()+w.GetGateway()+w.GetSource(), ":")
}

// parseIP is nil for an empty text.
func parseIP(s string) (net.IP, error) {
	if s == "" {
		return nil, nil
	}
	ip := net.ParseIP(s)
	if ip == nil {
		return nil, fmt.Errorf("address %q: %w", s, errdefs.ErrInvalidArgument)
	}
	return ip, nil
}
