// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"strings"
	"testing"
)

// entering defines `at NAMESPACE COMMAND`. It replaces `ip netns exec`, because the policy does not
// let ip mount a sysfs.
const entering = "at() { to=$1; shift; nsenter --net=/run/netns/$to \"$@\"; }\n"

// severalLinks makes three parents, each with a cable to the namespace peer, and upon them the
// links of a guest in x:
//   - eth0 is ipvlan in mode l2, where slaves share the parent's address on the wire
//   - eth1 is ipvlan in mode l3, where the parent's host routes for them
//   - eth2 is a VLAN
//
// In z is a slave of the first parent that no guest has, and in y a kind of slave that no guest can
// have.
const severalLinks = entering + `modprobe -a ipvlan 8021q
for n in peer x y z; do ip netns add $n; at $n ip link set lo up; done
for n in 0 1 2; do
  ip link add up$n type veth peer name p$n netns peer
  ip link set up$n up; at peer ip link set p$n up
  at peer ip addr add 10.9$n.0.1/24 dev p$n; at peer ip addr add fd9$n::1/64 dev p$n nodad
done
ip addr add 10.91.0.254/24 dev up1; ip addr add fd91::254/64 dev up1 nodad
at peer ip route add 10.91.0.2 via 10.91.0.254; at peer ip route add fd91::2 via fd91::254
ip link add link up0 name eth0 netns x type ipvlan mode l2
ip link add link up1 name eth1 netns x type ipvlan mode l3
ip link add link up2 name eth0 netns y type ipvlan mode l3s
ip link add link up0 name eth0 netns z type ipvlan mode l2
at x ip addr add 10.90.0.2/24 dev eth0; at x ip addr add fd90::2/64 dev eth0 nodad
at x ip addr add 10.91.0.2/32 dev eth1; at x ip addr add fd91::2/128 dev eth1 nodad
at z ip addr add 10.90.0.3/24 dev eth0; at z ip addr add fd90::3/64 dev eth0 nodad
at x ip link set eth0 up; at x ip link set eth1 up; at z ip link set eth0 up
ip link add link up2 name v5 type vlan id 5; ip link set v5 netns x name eth2; at x ip link set eth2 up
at peer ip link add link p2 name v5 type vlan id 5; at peer ip link set v5 up
at peer ip addr add 10.94.0.1/24 dev v5; at peer ip addr add fd94::1/64 dev v5 nodad
at x ip addr add 10.94.0.2/24 dev eth2; at x ip addr add fd94::2/64 dev eth2 nodad
at x ip route add 10.91.0.0/24 dev eth1; at x ip route add fd91::/64 dev eth1
mkdir -p /run/lab/www; echo of the host >/run/lab/www/f
for n in peer z; do at $n busybox httpd -p 8081 -h /run/lab/www; done`

// links has a guest speak through them, both ways, with a peer behind the parent and with another
// slave.
func links(t *testing.T, l *lab) {
	t.Helper()
	e := l.engine(t)
	l.sh(t, severalLinks)
	join := func(namespace string) []string { return []string{"--with-ns", "network:/run/netns/" + namespace} }
	if err := e.run("refused", join("y")...); err == nil ||
		!strings.Contains(err.Error(), "link eth0 of kind ipvlan cannot be passed to a guest: in mode l3s") {
		t.Errorf("ipvlan in mode l3s: %v, want a refusal that names it", err)
	}
	l.sh(t, "ctr container delete refused")
	config := l.config(t, "links", "", "", "[machine]\nnics = 3\n")
	if err := e.run("slave", append(join("x"), "--runtime-config-path", config)...); err != nil {
		t.Fatal(err)
	}
	in := func(script string) string {
		out, err := e.ctr("task", "exec", "--exec-id", "x", "slave", "sh", "-c", script)
		if err != nil {
			t.Error(err)
		}
		return out
	}
	in("mkdir /www; echo of the guest >/www/f; httpd -p 8080 -h /www")
	for _, address := range []string{"10.90.0.1", "fd90::1", "10.90.0.3", "fd90::3", "10.91.0.1", "fd91::1", "10.94.0.1", "fd94::1"} {
		if got := in("printf 'GET /f HTTP/1.0\\r\\n\\r\\n' | nc -w 10 " + address + " 8081 | tail -n 1"); got != "of the host\n" {
			t.Errorf("the guest gets %q from %s", got, address)
		}
	}
	for from, addresses := range map[string]string{
		"peer": "10.90.0.2 fd90::2 10.91.0.2 fd91::2 10.94.0.2 fd94::2",
		"z":    "10.90.0.2 fd90::2",
	} {
		for address := range strings.FieldsSeq(addresses) {
			got := l.sh(t, "nsenter --net=/run/netns/"+from+" timeout 10 bash -c 'exec 3<>/dev/tcp/"+address+
				"/8080; printf \"GET /f HTTP/1.0\\r\\n\\r\\n\" >&3; tail -n 1 <&3' 2>&1 || true")
			if got != "of the guest\n" {
				t.Errorf("%s gets %q from %s", from, got, address)
			}
		}
	}
	if err := e.remove("slave"); err != nil {
		t.Error(err)
	}
	if left := l.sh(t, entering+"at x ip -o link | grep cloister || true; at x tc qdisc show | grep ingress || true"); left != "" {
		t.Errorf("left in the namespace:\n%s", left)
	}
	l.sh(t, "pkill -x -f 'busybox httpd -p 8081 -h /run/lab/www'; for n in peer x y z; do ip netns delete $n; done")
}
