// SPDX-License-Identifier: Apache-2.0

package network

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// target is where routes lead that replace each other, whatever their link and metric.
type target struct {
	family, table uint32
	network       string // empty is everywhere
}

func leadsTo(r *guestv1.Route) target {
	return target{r.GetFamily(), r.GetTable(), r.GetDestination()}
}

// former has, by family and table, the default routes that the guest had last. Others are not
// remembered: an engine may have set any number of them in the life of a sandbox.
//
// An engine that connects one more network to a running container may lead its default route there.
// Where that network has no NIC in the guest, the guest would be left without a way out: it keeps
// the route that it had. The namespace does not tell which that was, and an engine withdraws the
// old route before it sets the new one. So a route is remembered for as long as its link is the
// guest's and has the same addresses.
type former map[target][]formerRoute

type formerRoute struct {
	owner string // of owners: the link, which may have another name by now, and its addresses
	route *guestv1.Route
}

// owners tells the guest's links apart, by their names. A name, a NIC or a MAC may serve another
// link later.
func owners(guest *guestv1.Network, links []chosen) map[string]string {
	all := map[string]string{}
	for i, l := range guest.GetLinks() { // describe makes one of each, in order
		all[l.GetName()] = fmt.Sprint(links[i].link.Attrs().Index, l.GetAddresses())
	}
	return all
}

// keep adds to the guest's network what it had to the destinations of the routes that are lost to
// it, and says so. A destination to which it has a route still is left as it is.
func (f former) keep(guest *guestv1.Network, links []chosen, lost []*guestv1.Route) (left []error) {
	names := map[string]string{}
	for name, owner := range owners(guest, links) {
		names[owner] = name
	}
	for _, r := range lost {
		if slices.ContainsFunc(guest.GetRoutes(), func(has *guestv1.Route) bool { return leadsTo(has) == leadsTo(r) }) {
			continue
		}
		for _, had := range f[leadsTo(r)] {
			name := names[had.owner]
			if name == "" {
				continue
			}
			route := proto.CloneOf(had.route)
			route.Link = name
			guest.Routes = append(guest.Routes, route)
			by := cmp.Or(r.GetLink(), "a link that it does not have")
			left = append(left, fmt.Errorf("route to %s by %s cannot be passed to a guest, which keeps the one by %s: %w",
				cmp.Or(r.GetDestination(), "everywhere"), by, name, errdefs.ErrFailedPrecondition))
		}
	}
	return left
}

// remember is what former is after the guest got this network.
func (f former) remember(guest *guestv1.Network, links []chosen) former {
	own, next := owners(guest, links), former{}
	for _, r := range guest.GetRoutes() {
		if r.GetDestination() != "" {
			continue
		}
		next[leadsTo(r)] = append(next[leadsTo(r)], formerRoute{own[r.GetLink()], r})
	}
	there := slices.Collect(maps.Values(own))
	for to, routes := range f {
		if next[to] != nil {
			continue
		}
		routes = slices.DeleteFunc(routes, func(r formerRoute) bool { return !slices.Contains(there, r.owner) })
		if len(routes) > 0 {
			next[to] = routes
		}
	}
	return next
}
