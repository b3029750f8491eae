// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
)

// set writes sysctls inside the namespace, in turn.
func (b *bench) set(pairs ...string) {
	b.t.Helper()
	b.must(b.n.do(func() error {
		var errs []error
		for i := 0; i < len(pairs); i += 2 {
			errs = append(errs, os.WriteFile(sysctlRoot+"/"+pairs[i], []byte(pairs[i+1]), 0))
		}
		return errors.Join(errs...)
	}))
}

// settings gives what the guest is to have: its link's first, then those of no single link.
func (b *bench) settings() [2]map[string]string {
	b.t.Helper()
	guest, _, err := b.n.Sync()
	b.must(err)
	return [2]map[string]string{guest.GetLinks()[0].GetSysctls(), guest.GetSysctls()}
}

func TestSyncReadsSysctls(t *testing.T) {
	b := newBench(t, 1)
	eth0 := b.add(b.veth("eth0"), 1)
	// A new namespace has the IPv4 settings of the host, which are anything.
	inherited := b.settings()
	for _, tt := range []struct {
		name string
		set  []string
		link map[string]string
		all  map[string]string
	}{
		{"a new link", nil, nil, nil},
		{
			"IPv6 is off, as Docker has it",
			[]string{"ipv6/conf/eth0/disable_ipv6", "1", "ipv4/conf/eth0/arp_notify", "1", "ipv4/neigh/eth0/retrans_time_ms", "2000"},
			map[string]string{"ipv6/conf/disable_ipv6": "1", "ipv4/conf/arp_notify": "1", "ipv4/neigh/retrans_time_ms": "2000"},
			nil,
		},
		{
			"back to the default, and no advertisements",
			[]string{
				"ipv6/conf/eth0/disable_ipv6", "0", "ipv4/conf/eth0/arp_notify", "0",
				"ipv4/neigh/eth0/retrans_time_ms", "1000", "ipv6/conf/eth0/accept_ra", "0",
			},
			map[string]string{"ipv6/conf/accept_ra": "0"},
			nil,
		},
		{
			"off everywhere but on one link, which is told so",
			[]string{"ipv6/conf/all/disable_ipv6", "1", "ipv6/conf/eth0/disable_ipv6", "0", "ipv6/conf/eth0/accept_ra", "1"},
			map[string]string{"ipv6/conf/disable_ipv6": "0", "ipv6/conf/forwarding": "0", "ipv6/conf/accept_redirects": "1"},
			map[string]string{
				"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/all/forwarding": "0", "ipv6/conf/all/accept_redirects": "1",
				"ipv6/conf/default/disable_ipv6": "1", "ipv6/conf/default/forwarding": "0", "ipv6/conf/default/accept_redirects": "1",
				"ipv6/conf/lo/disable_ipv6": "1", "ipv6/conf/lo/forwarding": "0", "ipv6/conf/lo/accept_redirects": "1",
			},
		},
	} {
		b.set(tt.set...)
		want, got := [2]map[string]string{tt.link, tt.all}, b.settings()
		for i := range want {
			for key, value := range inherited[i] {
				if want[i] == nil {
					want[i] = map[string]string{}
				}
				want[i][key] = value
			}
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: %s", tt.name, diff)
		}
	}
	b.set("ipv6/conf/all/disable_ipv6", "0")
	b.must(b.LinkSetMTU(eth0, 1200)) // below IPv6's least: the kernel has no settings for it there
	if got := b.settings()[0][disableIPv6]; got != "1" {
		t.Errorf("IPv6 of a link with an MTU of 1200: disable_ipv6 %q, want 1", got)
	}
}

// TestWatchSeesSysctls has Watch report those settings that the kernel reports.
func TestWatchSeesSysctls(t *testing.T) {
	b := newBench(t, 1)
	b.add(b.veth("eth0"), 1)
	changed := make(chan struct{}, 100)
	b.must(b.n.Watch(t.Context(), func() { changed <- struct{}{} }))
	b.set("ipv4/conf/eth0/rp_filter", "1")
	<-changed
}

// TestInterruptedDumps has the kernel interrupt dumps, all the time or for a while.
func TestInterruptedDumps(t *testing.T) {
	for _, tt := range []struct {
		name          string
		interruptions int
		wantErr       error
	}{
		{"complete at once", 0, nil},
		{"complete in the end", dumps - 1, nil},
		{"never", dumps, netlink.ErrDumpInterrupted},
	} {
		calls := 0
		list, err := whole(func() ([]int, error) {
			if calls++; calls <= tt.interruptions {
				return []int{1}, netlink.ErrDumpInterrupted
			}
			return []int{1, 2}, nil
		})
		if !errors.Is(err, tt.wantErr) || err == nil && len(list) != 2 || err != nil && list != nil {
			t.Errorf("%s: %v, %v after %d calls, want %v", tt.name, list, err, calls, tt.wantErr)
		}
	}
}
