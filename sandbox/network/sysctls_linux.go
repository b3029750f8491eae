// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

const (
	sysctlRoot  = "/proc/sys/net"
	disableIPv6 = "ipv6/conf/disable_ipv6"
)

// sysctls are the settings of a link that the guest's link gets as well, by folder, each with the
// kernel's default for a new link (net/ipv4/devinet.c, net/ipv6/addrconf.c, net/ipv4/arp.c,
// net/ipv6/ndisc.c). Left out are those that only the kernel writes (mc_forwarding), that follow
// from the link (mtu), that repeat another one in other units (retrans_time), and stable_secret,
// which can be read once it is set only. Those that decide about others come first.
var sysctls = map[string]string{ //nolint:gochecknoglobals // a table
	"ipv4/conf": `forwarding=0 accept_local=0 accept_redirects=1 accept_source_route=1 arp_accept=0 arp_announce=0
		arp_evict_nocarrier=1 arp_filter=0 arp_ignore=0 arp_notify=0 bc_forwarding=0 disable_policy=0 disable_xfrm=0
		drop_gratuitous_arp=0 drop_unicast_in_l2_multicast=0 force_igmp_version=0
		igmpv2_unsolicited_report_interval=10000 igmpv3_unsolicited_report_interval=1000 ignore_routes_with_linkdown=0
		log_martians=0 promote_secondaries=0 proxy_arp=0 proxy_arp_pvlan=0 route_localnet=0 rp_filter=0
		secure_redirects=1 send_redirects=1 shared_media=1 src_valid_mark=0`,
	"ipv6/conf": `disable_ipv6=0 forwarding=0 accept_dad=1 accept_ra=1 accept_ra_defrtr=1 accept_ra_from_local=0
		accept_ra_min_hop_limit=1 accept_ra_min_lft=0 accept_ra_mtu=1 accept_ra_pinfo=1 accept_ra_rt_info_max_plen=0
		accept_ra_rt_info_min_plen=0 accept_ra_rtr_pref=1 accept_redirects=1 accept_source_route=0 accept_untracked_na=0
		addr_gen_mode=0 autoconf=1 dad_transmits=1 disable_policy=0 drop_unicast_in_l2_multicast=0 drop_unsolicited_na=0
		enhanced_dad=1 force_mld_version=0 force_tllao=0 hop_limit=64 ignore_routes_with_linkdown=0 ioam6_enabled=0
		ioam6_id=65535 ioam6_id_wide=4294967295 keep_addr_on_down=0 max_addresses=16 max_desync_factor=600
		mldv1_unsolicited_report_interval=10000 mldv2_unsolicited_report_interval=1000 ndisc_evict_nocarrier=1
		ndisc_notify=0 ndisc_tclass=0 optimistic_dad=0 proxy_ndp=0 ra_defrtr_metric=1024 ra_honor_pio_life=0
		regen_max_retry=3 router_probe_interval=60 router_solicitation_delay=1 router_solicitation_interval=4
		router_solicitation_max_interval=3600 router_solicitations=-1 rpl_seg_enabled=0 seg6_enabled=0
		seg6_require_hmac=0 suppress_frag_ndisc=1 temp_prefered_lft=86400 temp_valid_lft=604800 use_oif_addrs_only=0
		use_optimistic=0 use_tempaddr=0`,
	"ipv4/neigh": `anycast_delay=100 app_solicit=0 base_reachable_time_ms=30000 delay_first_probe_time=5
		gc_stale_time=60 locktime=100 mcast_resolicit=0 mcast_solicit=3 proxy_delay=80 proxy_qlen=64
		retrans_time_ms=1000 ucast_solicit=3 unres_qlen_bytes=212992`,
	"ipv6/neigh": `anycast_delay=100 app_solicit=0 base_reachable_time_ms=30000 delay_first_probe_time=5
		gc_stale_time=60 locktime=0 mcast_resolicit=0 mcast_solicit=3 proxy_delay=80 proxy_qlen=64 retrans_time_ms=1000
		ucast_solicit=3 unres_qlen_bytes=212992`,
}

// otherDefaults are those of interfaces that do not begin as a new link does.
var otherDefaults = map[string]string{ //nolint:gochecknoglobals // a table
	"ipv4/conf/all/accept_source_route": "0", "ipv6/conf/all/accept_dad": "0",
	"ipv4/conf/lo/disable_policy": "1", "ipv4/conf/lo/disable_xfrm": "1", "ipv6/conf/lo/accept_dad": "-1",
	"ipv6/conf/lo/use_tempaddr": "-1",
}

// spreads are the settings that the kernel changes everywhere when they change for all (the last
// one with forwarding).
var spreads = []string{"disable_ipv6", "forwarding", "accept_redirects"} //nolint:gochecknoglobals // a table

// errChanged means that a link has gone or has another name since it was listed.
var errChanged = errors.New("the network namespace changed while it was read")

// readSysctls adds to guest the settings that differ from the kernel's defaults: what the engine
// has set, and what the host gives to every namespace. Without them the guest takes what the engine
// has switched off: on an IPv4 network of Docker's it accepted a forged router advertisement.
func (n *Namespace) readSysctls(guest *guestv1.Network) error {
	// /proc/sys/net shows the namespace of the thread that reads.
	return n.do(func() error {
		r := sysctlReader{explicit: map[string]bool{}}
		for _, name := range []string{"all", "default", "lo"} {
			own, err := r.read(name, "ipv4/conf", "ipv6/conf")
			if err != nil {
				return err
			}
			for key, value := range own {
				if guest.Sysctls == nil {
					guest.Sysctls = map[string]string{}
				}
				guest.Sysctls[filepath.Join(filepath.Dir(key), name, filepath.Base(key))] = value
			}
		}
		for _, l := range guest.GetLinks() {
			var err error
			if l.Sysctls, err = r.read(l.GetName(), "ipv4/conf", "ipv6/conf", "ipv4/neigh", "ipv6/neigh"); err != nil {
				return err
			}
		}
		return nil
	})
}

// sysctlReader reads /proc/sys/net of the namespace that its thread is in, the interface all first.
// The order matters: what all has decides which settings of the others are named.
type sysctlReader struct {
	explicit map[string]bool // named even if they have the kernel's default, since the same for all has not
}

// read gives the settings of an interface that differ from the kernel's defaults, by FOLDER/NAME.
func (r sysctlReader) read(name string, folders ...string) (map[string]string, error) {
	out := map[string]string{}
	for _, folder := range folders {
		err := r.readFolder(name, folder, out)
		switch {
		case err == nil:
		case !errors.Is(err, unix.ENOENT):
			return nil, fmt.Errorf("sysctls of %s: %w", name, err)
		case folder == "ipv6/conf": // a host without IPv6, or a link whose MTU is too small for it: nor has the guest any
			out[disableIPv6] = "1"
		case folder == "ipv4/conf":
			return nil, fmt.Errorf("sysctls of %s: %w", name, errChanged)
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	return out, nil
}

// readFolder reads one folder of settings. The folder is opened once: a link that goes and another
// that gets its name between two reads would give a mixture of both.
func (r sysctlReader) readFolder(name, folder string, out map[string]string) error {
	dir, err := unix.Open(filepath.Join(sysctlRoot, folder, name), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	for word := range strings.FieldsSeq(sysctls[folder]) {
		key, usual, _ := strings.Cut(word, "=")
		value, err := readAt(dir, key)
		if errors.Is(err, os.ErrNotExist) {
			continue // of another kernel
		}
		if err != nil {
			return fmt.Errorf("%s/%s: %w", folder, key, err)
		}
		if other, ok := otherDefaults[folder+"/"+name+"/"+key]; ok {
			usual = other
		}
		if value != usual && name == "all" && slices.Contains(spreads, key) {
			// A write to all changes every link in the guest. Links that the engine has set back to
			// the default must then be named, or they would follow all.
			for _, s := range spreads {
				r.explicit[folder+"/"+s] = true
			}
		}
		if value != usual || r.explicit[folder+"/"+key] {
			out[folder+"/"+key] = value
		}
	}
	return nil
}

// readAt gives the value without the newline. A value of these files is a number, so 64 bytes are
// plenty.
func readAt(dir int, name string) (string, error) {
	f, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(f)
	var buffer [64]byte
	n, err := unix.Read(f, buffer[:])
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(buffer[:n])), nil
}
