// SPDX-License-Identifier: Apache-2.0

package network

import (
	"strings"
	"testing"
)

// virtual puts a link of a kind upon a port of br0 into a namespace, with addresses.
func (b *bed) virtual(namespace, kind, link, four, six string) {
	b.t.Helper()
	b.sh(`n=` + namespace + `; l=` + link + `
ip netns list | grep -qw $n || { ip netns add $n; ip -n $n link set lo up; }
ip link show up0 >/dev/null 2>&1 ||
	{ ip link add up0 type veth peer name up1; ip link set up1 master br0; ip link set up1 up; ip link set up0 up; }
ip link add link up0 name $l netns $n type ` + kind + `
ip -n $n addr add ` + four + ` dev $l
ip -n $n addr add ` + six + ` dev $l nodad
ip -n $n link set $l up`)
}

// TestMacvlan gives a guest a veth and a macvlan, and another macvlan while it runs.
func TestMacvlan(t *testing.T) {
	b := newBed(t, "[machine]\nnics = 3\n")
	b.plug("x", "eth0", "10.88.0.2/24", "fd88::2/64")
	b.sh("ip addr add 10.89.0.1/24 dev br0; ip addr add fd89::1/64 dev br0 nodad")
	b.virtual("x", "macvlan mode bridge", "net1", "10.89.0.2/24", "fd89::2/64")
	mac := b.sh("ip -n x -o link show net1 | sed 's/.*link.ether \\([^ ]*\\).*/\\1/'")
	b.run("c", "x", "sh", "-c", "mkdir /www; echo from the guest >/www/f; httpd -p 8080 -h /www; sleep 1000")
	b.say("address of the NIC", mac, "cat /sys/class/net/net1/address")
	b.say("both networks", "0\n0\n0",
		"for a in 10.88.0.1 10.89.0.1; do ping -c 1 -W 5 $a >/dev/null; echo $?; done; ping -6 -c 1 -W 5 fd89::1 >/dev/null; echo $?")
	for _, address := range []string{"10.88.0.2", "10.89.0.2", "fd89::2"} {
		if got := b.sh(get(address, "8080") + " | tail -n 1"); got != "from the guest" {
			t.Errorf("wget %s = %q", address, got)
		}
	}
	b.virtual("x", "macvlan mode bridge", "net2", "10.89.0.3/24", "fd89::3/64")
	b.say("a later one", "0",
		"until ip -o addr show dev net2 2>/dev/null | grep -q 10.89.0.3; do :; done; ping -c 1 -W 5 -I net2 10.89.0.1 >/dev/null; echo $?")
	b.sh("ip -n x link delete net2")
	b.say("gone again", "", "while ip -o addr show dev net2 2>/dev/null | grep -q 10.89.0.3; do :; done")
	b.Remove(t, "c")
	if left := b.sh("ip -n x -o link | grep -c cloister || true; tc -n x qdisc show " +
		"dev net1 | grep -c ingress || true"); strings.Join(strings.Fields(left), " ") != "0 0" {
		t.Errorf("taps and redirects left: %s", left)
	}
}

// TestRefusedLinks puts links into a namespace that a guest cannot have: no machine is started, and
// the error names the link.
func TestRefusedLinks(t *testing.T) {
	b := newBed(t, "")
	for name, tt := range map[string]struct{ made, want string }{
		"odd":  {"type vxlan id 3 dstport 4789", "link net1 of kind vxlan cannot be passed to a guest"},
		"many": {"type veth peer name net2", ": all 2 NICs of the machine are taken: set machine.nics"},
	} {
		b.plug(name, "eth0", "10.88.0.2/24", "fd88::2/64")
		b.sh("ip -n " + name + " link add net1 " + tt.made)
		r := b.Run(t, b.Args(name, []string{"--with-ns", "network:/run/netns/" + name}, "true")...)
		b.Remove(t, name)
		if r.Code == 0 || !strings.Contains(r.Stderr, tt.want) {
			t.Errorf("%s: exit %d, %s, want %q", name, r.Code, r.Stderr, tt.want)
		}
	}
}
