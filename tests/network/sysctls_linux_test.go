// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"strings"
	"testing"

	"cloister/tests/host"
)

// TestSysctls has an engine set sysctls of links and of their namespace, before the guest is there,
// while it runs, and of a link that comes later.
func TestSysctls(t *testing.T) {
	b := newBed(t, "[machine]\nnics = 2\n")
	b.plug("x", "eth0", "10.88.0.2/24", "fd88::2/64")
	const sysctl, until = "ip netns exec x sysctl -q -w ", "until %s; do sleep 0.1; done; "
	b.sh(sysctl +
		"net.ipv6.conf.eth0.accept_ra=0 net.ipv4.conf.eth0.log_martians=1 net.ipv4.conf.all.arp_ignore=1 " +
		"net.ipv6.conf.default.autoconf=0 net.ipv4.neigh.eth0.app_solicit=2")
	b.run("c", "x")
	const settings = "cd /proc/sys/net; echo $(cat ipv6/conf/eth0/accept_ra ipv4/conf/eth0/log_martians " +
		"ipv4/conf/all/arp_ignore ipv6/conf/default/autoconf ipv4/neigh/eth0/app_solicit)"
	b.say("set before", "0 1 1 0 2", settings)

	b.forgedRouter()

	b.sh(sysctl + "net.ipv4.conf.eth0.log_martians=0 net.ipv4.conf.eth0.rp_filter=2")
	b.say("a change that the kernel reports, and one before it", "0 0 1 0 2",
		fmt.Sprintf(until, "grep -q 2 /proc/sys/net/ipv4/conf/eth0/rp_filter")+settings)

	b.sh(sysctl + "net.ipv6.conf.eth0.disable_ipv6=1")
	b.say("IPv6 is switched off", "1", fmt.Sprintf(until, "! grep -q eth0 /proc/net/if_inet6")+
		"cat /proc/sys/net/ipv6/conf/eth0/disable_ipv6")
	b.say("IPv4 goes on", "0", "ping -c 1 -W 5 10.88.0.1 >/dev/null; echo $?")

	b.sh(`ip link add vx1 master br0 type veth peer name eth1 netns x; ip link set vx1 up
` + sysctl + `net.ipv6.conf.eth1.disable_ipv6=1
ip -n x addr add 10.88.0.3/24 dev eth1; ip -n x link set eth1 up`)
	b.say("a later link without IPv6", "1 0", fmt.Sprintf(until, "ip -o -4 addr show dev eth1 2>/dev/null | grep -q 10.88.0.3")+
		"echo $(cat /proc/sys/net/ipv6/conf/eth1/disable_ipv6) $(grep -c eth1 /proc/net/if_inet6)")
}

// forgedRouter sends a router advertisement over the bridge. A namespace that accepts it shows that
// it has come; the guest must not.
func (b *bed) forgedRouter() {
	b.t.Helper()
	b.plug("open", "eth0", "10.88.0.66/24", "fd88::66/64")
	if left := host.Await(host.Patience, func() string {
		b.Place.SendFrame(b.t, "br0", host.Advertisement())
		if got := b.sh("ip -n open -6 -o addr show dev eth0"); !strings.Contains(got, "fd66::") {
			return got
		}
		return ""
	}); left != "" {
		b.t.Fatalf("no forged advertisement comes over the bridge: %s", left)
	}
	b.sh("busybox ping -c 1 -W 20 10.88.0.2") // comes behind the advertisement in the same queue
	b.say("an address and a route of a forged advertisement", "0",
		"cat /proc/net/if_inet6 /proc/net/ipv6_route | grep -cE '^fd66|fe800000000000000000000000000066'")
}
