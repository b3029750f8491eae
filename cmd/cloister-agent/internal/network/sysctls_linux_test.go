// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

func set(name, value string) error {
	return os.WriteFile(filepath.Join(sysctlRoot, name), []byte(value), 0)
}

func settings(t *testing.T, names ...string) string {
	t.Helper()
	var all []string
	for _, name := range names {
		data, err := os.ReadFile(filepath.Join(sysctlRoot, name))
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, strings.TrimSpace(string(data)))
	}
	return strings.Join(all, " ")
}

// addresses6 are the IPv6 addresses of eth0, whoever made them.
func addresses6(t *testing.T) []string {
	t.Helper()
	link, err := netlink.LinkByName("eth0")
	if err != nil {
		t.Fatal(err)
	}
	list, err := netlink.AddrList(link, netlink.FAMILY_V6)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, a := range list {
		all = append(all, a.IPNet.String())
	}
	return all
}

// events6 records every IPv6 address that appears anywhere in the namespace.
func events6(t *testing.T) (seen func() []string) {
	t.Helper()
	updates, done := make(chan netlink.AddrUpdate, 100), make(chan struct{})
	t.Cleanup(func() { close(done) })
	if err := netlink.AddrSubscribe(updates, done); err != nil {
		t.Fatal(err)
	}
	return func() (all []string) {
		// An address on loopback is told behind all that came before it.
		lo, err := netlink.LinkByName("lo")
		if err != nil {
			t.Fatal(err)
		}
		last, _ := netlink.ParseAddr("127.0.0.77/32")
		if err := netlink.AddrAdd(lo, last); err != nil {
			t.Fatal(err)
		}
		for u := range updates {
			if u.LinkAddress.IP.Equal(last.IP) {
				return all
			}
			if u.NewAddr && u.LinkAddress.IP.To4() == nil && u.LinkIndex != lo.Attrs().Index {
				all = append(all, u.LinkAddress.String())
			}
		}
		return all
	}
}

func TestSysctlsBeforeUp(t *testing.T) {
	if !private(t) {
		return
	}
	if err := set("ipv6/conf/peer/disable_ipv6", "1"); err != nil {
		t.Fatal(err)
	}
	seen := events6(t)
	a := new(applier)
	link := &guestv1.Link{
		Mac: machineMAC, Name: "eth0", Up: true, Addresses: []string{"10.0.0.1/24"},
		Sysctls: map[string]string{"ipv6/conf/disable_ipv6": "1", "ipv6/conf/accept_ra": "0", "ipv4/conf/log_martians": "1"},
	}
	state := ""
	named := func() error {
		state = settings(t, "ipv6/conf/eth0/disable_ipv6", "ipv6/conf/eth0/accept_ra",
			"ipv4/conf/eth0/log_martians") + fmt.Sprint(" ", look(t, "eth0").Up)
		return set("ipv4/conf/eth0/arp_notify", "1")
	}
	if err := a.apply(&guestv1.Network{Links: []*guestv1.Link{link}}, named); err != nil {
		t.Fatal(err)
	}
	if want := "1 0 1 false"; state != want {
		t.Errorf("before the link is up: %s, want %s", state, want)
	}
	if got := seen(); len(got) != 0 {
		t.Errorf("a link without IPv6 had the addresses %s", got)
	}
	// The engine takes one wish back and changes another; what the workload has set meanwhile
	// stays.
	if err := errors.Join(set("ipv6/conf/eth0/accept_ra", "2"), set("ipv4/conf/eth0/log_martians", "0")); err != nil {
		t.Fatal(err)
	}
	link.Sysctls = map[string]string{"ipv6/conf/accept_ra": "0", "ipv4/conf/log_martians": "1"}
	if err := a.apply(&guestv1.Network{Links: []*guestv1.Link{link}}, nil); err != nil {
		t.Fatal(err)
	}
	names := []string{"ipv6/conf/eth0/disable_ipv6", "ipv6/conf/eth0/accept_ra", "ipv4/conf/eth0/log_martians", "ipv4/conf/eth0/arp_notify"}
	if got, want := settings(t, names...), "0 2 0 1"; got != want {
		t.Errorf("%s = %s, want %s", names, got, want)
	}
	// The NIC becomes another link.
	link.Name, link.Sysctls = "eth1", nil
	if err := a.apply(&guestv1.Network{Links: []*guestv1.Link{link}}, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := settings(t, "ipv6/conf/eth1/disable_ipv6", "ipv6/conf/eth1/accept_ra", "ipv4/conf/eth1/log_martians"),
		"0 1 0"; got != want {
		t.Errorf("of another link: %s, want %s", got, want)
	}
}

// TestWithoutIPv6 leaves out what is of IPv6 where the engine or the workload has switched it off,
// for all links or for one.
func TestWithoutIPv6(t *testing.T) {
	if !private(t) {
		return
	}
	six := []string{"fd00::3/64"}
	for _, tt := range []struct {
		name    string
		all     map[string]string
		link    map[string]string
		named   map[string]string
		before  map[string]string
		wantSix []string
	}{
		{name: "on", wantSix: six},
		{name: "off for the link, by the engine", link: map[string]string{"ipv6/conf/disable_ipv6": "1"}},
		{name: "off for all, by the engine", all: map[string]string{"ipv6/conf/all/disable_ipv6": "1"}},
		{
			name: "off for all but this one, by the engine", wantSix: six,
			all:  map[string]string{"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/default/disable_ipv6": "1"},
			link: map[string]string{"ipv6/conf/disable_ipv6": "0"},
		},
		{name: "off for the link, by the workload", named: map[string]string{"ipv6/conf/eth0/disable_ipv6": "1"}},
		{name: "off for all, by the workload", named: map[string]string{"ipv6/conf/all/disable_ipv6": "1"}},
		{name: "on again", named: map[string]string{"ipv6/conf/all/disable_ipv6": "0"}, wantSix: six},
		{name: "off for links to come, by the workload", named: map[string]string{"ipv6/conf/default/disable_ipv6": "1"}, wantSix: six},
		{name: "off for this one, as for each that comes", before: map[string]string{"ipv6/conf/eth0/disable_ipv6": "1"}, wantSix: six},
		{name: "off for all, by the workload, before the link comes", before: map[string]string{"ipv6/conf/all/disable_ipv6": "1"}},
	} {
		for name, value := range tt.before {
			if err := set(name, value); err != nil {
				t.Fatal(err)
			}
		}
		a := new(applier)
		n := &guestv1.Network{
			Sysctls: tt.all,
			Links: []*guestv1.Link{{
				Mac: machineMAC, Name: "eth0", Up: true, Sysctls: tt.link,
				Addresses: []string{"10.0.0.1/24", "fd00::3/64"},
			}},
			Routes: []*guestv1.Route{
				{Link: "eth0", Gateway: "10.0.0.9"},
				{Link: "eth0", Gateway: "fd00::1"},
				{Link: "eth0", Destination: "fd77::/64", Family: 6},
			},
			Neighbours: []*guestv1.Neighbour{{Link: "eth0", Ip: "fd00::9", Mac: "02:00:00:00:00:09"}},
		}
		named := func() error {
			var errs []error
			for name, value := range tt.named {
				errs = append(errs, set(name, value))
			}
			return errors.Join(errs...)
		}
		if err := a.apply(n, named); err != nil {
			t.Errorf("%s: %v", tt.name, err)
			continue
		}
		var got []string
		for _, address := range addresses6(t) {
			if !strings.HasPrefix(address, "fe80") {
				got = append(got, address)
			} else if tt.wantSix == nil {
				t.Errorf("%s: link-local address %s", tt.name, address)
			}
		}
		if diff := cmp.Diff(tt.wantSix, got); diff != "" {
			t.Errorf("%s: IPv6 addresses: %s", tt.name, diff)
		}
		routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
		if err != nil || len(routes) != 2 {
			t.Errorf("%s: IPv4 routes %v, %v", tt.name, routes, err)
		}
		// The engine takes its wishes back.
		if err := a.apply(&guestv1.Network{Links: []*guestv1.Link{{Mac: machineMAC, Name: "eth0"}}}, nil); err != nil {
			t.Fatal(err)
		}
	}
}

func TestSysctlsRefused(t *testing.T) {
	if !private(t) {
		return
	}
	for _, tt := range []struct {
		name string
		set  map[string]string
		want error
	}{
		{"not in this kernel", map[string]string{"ipv6/conf/nothing": "1"}, errdefs.ErrFailedPrecondition},
		{"not a name", map[string]string{"../../../conf/x": "1"}, errdefs.ErrInvalidArgument},
		{"not a value", map[string]string{"ipv4/conf/rp_filter": "x"}, unix.EINVAL},
	} {
		n := &guestv1.Network{Links: []*guestv1.Link{{Mac: machineMAC, Name: "eth0", Up: true, Sysctls: tt.set}}}
		if err := new(applier).apply(n, nil); !errors.Is(err, tt.want) {
			t.Errorf("%s: apply = %v, want %v", tt.name, err, tt.want)
		}
		if look(t, "eth0").Up {
			t.Errorf("%s: the link is up without its settings", tt.name)
		}
	}
}
