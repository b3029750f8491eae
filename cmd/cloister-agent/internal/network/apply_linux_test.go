// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/tests/testenv"
)

const (
	inNamespace = "CLOISTER_TEST_NAMESPACE"
	machineMAC  = "02:00:00:00:00:01"
)

// private runs the test again in a network namespace of its own, with a NIC
// that has machineMAC.
func private(t *testing.T) bool {
	t.Helper()
	testenv.NeedRoot(t)
	if os.Getenv(inNamespace) == "" {
		cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
		cmd.Env = append(os.Environ(), inNamespace+"=1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return false
	}
	mac, err := net.ParseMAC(machineMAC)
	if err != nil {
		t.Fatal(err)
	}
	nic := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nic0", HardwareAddr: mac}, PeerName: "peer"}
	if err := netlink.LinkAdd(nic); err != nil {
		t.Fatal(err)
	}
	peer, err := netlink.LinkByName("peer")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(LoopbackUp(), netlink.LinkSetUp(peer)); err != nil {
		t.Fatal(err)
	}
	return true
}

// state is what the guest has, without the kernel's own.
type state struct {
	Name, MAC  string
	MTU        int
	Up         bool
	Addresses  []string
	Routes     []string
	Neighbours []string
}

func look(t *testing.T, name string) state {
	t.Helper()
	link, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	a := link.Attrs()
	s := state{Name: a.Name, MAC: a.HardwareAddr.String(), MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
	addresses, err := netlink.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range addresses {
		if !a.IP.IsLinkLocalUnicast() {
			s.Addresses = append(s.Addresses, a.IPNet.String())
		}
		if a.Flags&unix.IFA_F_TENTATIVE != 0 && !a.IP.IsLinkLocalUnicast() {
			t.Errorf("address %s is tentative", a.IPNet)
		}
	}
	routes, err := netlink.RouteList(link, netlink.FAMILY_ALL)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Protocol != unix.RTPROT_KERNEL {
			s.Routes = append(s.Routes, r.Dst.String()+" "+r.Gw.String())
		}
	}
	neighbours, err := netlink.NeighList(a.Index, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range neighbours {
		if n.State == netlink.NUD_PERMANENT {
			s.Neighbours = append(s.Neighbours, n.IP.String()+" "+n.HardwareAddr.String())
		}
	}
	slices.Sort(s.Addresses)
	slices.Sort(s.Routes)
	return s
}

func TestApply(t *testing.T) {
	if !private(t) {
		return
	}
	link := &guestv1.Link{
		Mac: machineMAC, Name: "eth0", Mtu: 1400, Up: true, NewMac: "02:42:00:00:00:05",
		Addresses: []string{"10.1.2.3/24", "fd00::3/64"},
	}
	first := &guestv1.Network{
		Links: []*guestv1.Link{link},
		Routes: []*guestv1.Route{
			{Link: "eth0", Gateway: "169.254.1.1"}, // reached by the next one
			{Link: "eth0", Destination: "169.254.1.1/32", Scope: uint32(netlink.SCOPE_LINK)},
			{Link: "eth0", Gateway: "fd00::1"},
		},
		Neighbours: []*guestv1.Neighbour{{Link: "eth0", Ip: "169.254.1.1", Mac: "02:00:00:00:00:09"}},
	}
	want := state{
		Name: "eth0", MAC: "02:42:00:00:00:05", MTU: 1400, Up: true,
		Addresses:  []string{"10.1.2.3/24", "fd00::3/64"},
		Routes:     []string{"0.0.0.0/0 169.254.1.1", "169.254.1.1/32 <nil>", "::/0 fd00::1"},
		Neighbours: []string{"169.254.1.1 02:00:00:00:00:09"},
	}
	for range 2 { // idempotent
		if err := new(applier).apply(first, nil); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, look(t, "eth0")); diff != "" {
			t.Errorf("after Apply: %s", diff)
		}
	}
	link.Addresses = []string{"10.9.9.9/16"}
	link.Mtu = 1300
	if err := new(applier).apply(&guestv1.Network{
		Links:  []*guestv1.Link{link},
		Routes: []*guestv1.Route{{Link: "eth0", Gateway: "10.9.0.1"}},
	}, nil); err != nil {
		t.Fatal(err)
	}
	want.Addresses, want.MTU, want.Routes = []string{"10.9.9.9/16"}, 1300, []string{"0.0.0.0/0 10.9.0.1"}
	want.Neighbours = nil
	if diff := cmp.Diff(want, look(t, "eth0")); diff != "" {
		t.Errorf("after a change: %s", diff)
	}
	link.Addresses = []string{"10.9.9.8/16", "10.9.9.7/16"} // of the same subnet as the one that goes
	if err := new(applier).apply(&guestv1.Network{
		Links:  []*guestv1.Link{link},
		Routes: []*guestv1.Route{{Link: "eth0", Gateway: "10.9.0.1"}},
	}, nil); err != nil {
		t.Fatal(err)
	}
	want.Addresses = []string{"10.9.9.7/16", "10.9.9.8/16"}
	if diff := cmp.Diff(want, look(t, "eth0")); diff != "" {
		t.Errorf("after another change: %s", diff)
	}
	link.Up = false
	if err := new(applier).apply(&guestv1.Network{Links: []*guestv1.Link{link}}, nil); err != nil {
		t.Fatal(err)
	}
	if look(t, "eth0").Up {
		t.Error("the link is still up")
	}
}

// TestApplyRules has rules and routes of another table come and go, beside one that somebody in the
// guest has made.
func TestApplyRules(t *testing.T) {
	if !private(t) {
		return
	}
	own := netlink.NewRule()
	own.Priority, own.Family, own.Table = 4, netlink.FAMILY_V4, 99
	if err := netlink.RuleAdd(own); err != nil {
		t.Fatal(err)
	}
	links := []*guestv1.Link{{Mac: machineMAC, Name: "eth0", Up: true, Addresses: []string{"10.0.0.1/24"}}}
	from := &guestv1.Rule{Family: 4, Priority: 5, Source: "10.0.0.0/24", InLink: "lo", Table: 100}
	marked := &guestv1.Rule{Family: 6, Priority: 6, Destination: "fd00::/64", Mark: 5, Mask: 15, Invert: true, Table: 1000}
	other := []*guestv1.Route{{Link: "eth0", Gateway: "10.0.0.9", Table: 100}}
	for _, test := range []struct {
		name   string
		rules  []*guestv1.Rule
		routes []*guestv1.Route
		want   []string
	}{
		{
			"both",
			[]*guestv1.Rule{from, marked},
			other,
			[]string{"4 <nil>-<nil> 99", "5 10.0.0.0/24-<nil> 100", "6 <nil>-fd00::/64 1000", "via 10.0.0.9 100"},
		},
		{
			"again",
			[]*guestv1.Rule{from, marked},
			other,
			[]string{"4 <nil>-<nil> 99", "5 10.0.0.0/24-<nil> 100", "6 <nil>-fd00::/64 1000", "via 10.0.0.9 100"},
		},
		{"one less", []*guestv1.Rule{marked}, nil, []string{"4 <nil>-<nil> 99", "6 <nil>-fd00::/64 1000"}},
		{"none", nil, nil, []string{"4 <nil>-<nil> 99"}},
	} {
		if err := new(applier).apply(&guestv1.Network{Links: links, Routes: test.routes, Rules: test.rules}, nil); err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if diff := cmp.Diff(test.want, otherTables(t)); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
	}
}

// otherTables tells the rules but for the kernel's own, and the routes of other tables than main
// and local.
func otherTables(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := netlink.RuleList(family)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			if r.Priority > 0 && r.Priority < 32766 {
				all = append(all, fmt.Sprintf("%d %v-%v %d", r.Priority, r.Src, r.Dst, r.Table))
			}
		}
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{}, netlink.RT_FILTER_TABLE)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		if r.Table < unix.RT_TABLE_DEFAULT {
			all = append(all, fmt.Sprintf("via %s %d", r.Gw, r.Table))
		}
	}
	return all
}

func TestApplyRefuses(t *testing.T) {
	if !private(t) {
		return
	}
	eth0 := []*guestv1.Link{{Mac: machineMAC, Name: "eth0", Up: true}}
	for _, tt := range []struct {
		name    string
		in      *guestv1.Network
		wantErr error
	}{
		{"no such NIC", &guestv1.Network{Links: []*guestv1.Link{{Mac: "02:00:00:00:00:77", Name: "eth0"}}}, errdefs.ErrNotFound},
		{"bad MAC", &guestv1.Network{Links: []*guestv1.Link{{Mac: "x", Name: "eth0"}}}, errdefs.ErrInvalidArgument},
		{
			"bad address", &guestv1.Network{Links: []*guestv1.Link{{Mac: machineMAC, Name: "eth0", Addresses: []string{"x"}}}},
			errdefs.ErrInvalidArgument,
		},
		{"route by no link", &guestv1.Network{Links: eth0, Routes: []*guestv1.Route{{Link: "eth7"}}}, errdefs.ErrInvalidArgument},
		{"bad rule", &guestv1.Network{Links: eth0, Rules: []*guestv1.Rule{{Source: "x"}}}, errdefs.ErrInvalidArgument},
		{"bad gateway", &guestv1.Network{Links: eth0, Routes: []*guestv1.Route{{Link: "eth0", Gateway: "x"}}}, errdefs.ErrInvalidArgument},
		{
			"bad neighbour", &guestv1.Network{Links: eth0, Neighbours: []*guestv1.Neighbour{{Link: "eth0", Ip: "", Mac: machineMAC}}},
			errdefs.ErrInvalidArgument,
		},
	} {
		if err := new(applier).apply(tt.in, nil); !errors.Is(err, tt.wantErr) {
			t.Errorf("%s: Apply = %v, want %v", tt.name, err, tt.wantErr)
		}
	}
}

// TestApplySwapsNames has two NICs exchange their names, beside one that is not there: the rest is
// done all the same.
func TestApplySwapsNames(t *testing.T) {
	if !private(t) {
		return
	}
	const otherMAC = "02:00:00:00:00:02"
	mac, err := net.ParseMAC(otherMAC)
	if err != nil {
		t.Fatal(err)
	}
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "nic1", HardwareAddr: mac}, PeerName: "peer1"}); err != nil {
		t.Fatal(err)
	}
	for _, names := range [][2]string{{"eth0", "eth1"}, {"eth1", "eth0"}, {"eth2", "eth1"}} {
		err := new(applier).apply(&guestv1.Network{
			Links: []*guestv1.Link{
				{Mac: "02:00:00:00:00:77", Name: "gone"},
				{Mac: machineMAC, Name: names[0], Mtu: 1400, Addresses: []string{"10.0.0.1/24"}, Up: true},
				{Mac: otherMAC, Name: names[1], Mtu: 1300, Addresses: []string{"10.0.1.1/24"}, Up: true},
			},
			Routes: []*guestv1.Route{
				{Link: "gone", Destination: "10.3.0.0/24"},
				{Link: names[1], Destination: "10.2.0.0/24", Source: "10.9.9.9"}, // of nobody
				{Link: names[1], Destination: "10.1.0.0/24", Scope: uint32(netlink.SCOPE_LINK)},
			},
		}, nil)
		if !errors.Is(err, errdefs.ErrNotFound) || !errors.Is(err, unix.EINVAL) {
			t.Errorf("Apply = %v, want that one NIC and one source are not there", err)
		}
		want := []state{
			{Name: names[0], MAC: machineMAC, MTU: 1400, Up: true, Addresses: []string{"10.0.0.1/24"}},
			{Name: names[1], MAC: otherMAC, MTU: 1300, Up: true, Addresses: []string{"10.0.1.1/24"}, Routes: []string{"10.1.0.0/24 <nil>"}},
		}
		if diff := cmp.Diff(want, []state{look(t, names[0]), look(t, names[1])}); diff != "" {
			t.Errorf("%s: %s", names, diff)
		}
	}
}
