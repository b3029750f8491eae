// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"os"
	"strings"
	"testing"
)

// gateways leads the default routes of a running container to other networks, under both runtimes:
// by gateway priority, of both families, and to networks of IPv6 alone. One network has no NIC in
// the guest, which keeps the route that it had.
func gateways(t *testing.T, b *engine) {
	b.MustDocker(t, "network", "create", "--subnet=10.93.0.0/24", "far")
	b.MustDocker(t, "network", "create", "--ipv4=false", "--ipv6", "--subnet=fd94::/64", "--gateway=fd94::1", "six")
	b.start(t, "sixth", []string{"--network=six", "--ip6=fd94::6"})
	for _, runtime := range []string{"runc", "cloister"} {
		t.Run(runtime, func(t *testing.T) {
			b.start(t, "ways", []string{"--runtime=" + runtime, "--network=front"})
			out := func(four, six string) {
				t.Helper()
				b.awaitIn(t, "ways", strings.TrimSpace(four+" | "+six),
					`echo $(ip route | awk '/^default/ {print $3, $5}') '|' $(ip -6 route | awk '/^default/ {print $3, $5}')`)
			}
			out("10.91.0.1 eth0", "fd91::1 eth0")
			b.MustDocker(t, "network", "connect", "--gw-priority=5", "back", "ways")
			out("10.92.0.1 eth1", "fd91::1 eth0")
			t.Run("more networks than NICs", func(t *testing.T) {
				b.MustDocker(t, "network", "connect", "--gw-priority=9", "far", "ways")
				if runtime == "cloister" {
					b.awaitLog(t, "a link that it does not have cannot be passed to a guest, which keeps the one by eth1")
					out("10.92.0.1 eth1", "fd91::1 eth0")
				} else {
					out("10.93.0.1 eth2", "fd91::1 eth0")
				}
				b.say(t, "ways", "a host outside of its networks", "0", "ping -c 1 -W 9 10.93.0.1 >/dev/null; echo $?")
				b.MustDocker(t, "network", "disconnect", "back", "ways") // its NIC is free
				out("10.93.0.1 eth2", "fd91::1 eth0")
			})
			b.MustDocker(t, "network", "disconnect", "far", "ways")
			out("10.91.0.1 eth0", "fd91::1 eth0")
			t.Run("IPv6 alone", func(t *testing.T) {
				b.MustDocker(t, "network", "connect", "--gw-priority=7", "six", "ways")
				out("10.91.0.1 eth0", "fd94::1 eth1")
				b.say(t, "ways", "addresses", "fd94", "ip -o addr show dev eth1 | awk '{print $4}' | grep -v ^fe80 | cut -d: -f1")
				b.say(t, "ways", "a name", "fd94::6", "nslookup -type=aaaa sixth | awk '/^Address/ {a=$2} END {print a}'")
				b.MustDocker(t, "network", "disconnect", "front", "ways")
				out("", "fd94::1 eth1")
				b.say(t, "ways", "a neighbour", "0", "ping -c 1 -W 9 fd94::6 >/dev/null; echo $?")
				b.MustDocker(t, "network", "connect", "front", "ways")
				out("10.91.0.1 eth0", "fd94::1 eth1")
			})
			b.MustDocker(t, "rm", "--force", "ways")
		})
	}
	b.MustDocker(t, "rm", "--force", "sixth")
	b.MustDocker(t, "network", "rm", "far", "six")
}

// awaitLog waits until containerd's log has the text.
func (b *engine) awaitLog(t *testing.T, text string) {
	t.Helper()
	if !await(func() bool {
		log, err := os.ReadFile(b.Containerd.LogFile)
		return err == nil && strings.Contains(string(log), text)
	}) {
		t.Errorf("nothing in the log says %q", text)
	}
}
