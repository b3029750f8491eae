// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/host"
)

// sysctls compares the settings of links with those that runc's containers have, and what follows
// from them.
func sysctls(t *testing.T, b *engine) {
	b.MustDocker(t, "network", "create", "--ipv6", "--subnet=10.93.0.0/24", "--subnet=fd93::/64", "six")
	b.MustDocker(t, "network", "create", "--opt=com.docker.network.bridge.enable_icc=false", "apart")
	t.Cleanup(func() { b.RunDocker(t, "network", "rm", "six", "apart") })
	for _, tt := range []struct {
		name    string
		options []string
		want    map[string]string // of some settings of eth0
	}{
		{"an IPv4 network", nil, map[string]string{"ipv6/conf/eth0/disable_ipv6": "1"}},
		{"an IPv6 network", []string{"--network=six"}, map[string]string{"ipv6/conf/eth0/disable_ipv6": "0"}},
		{
			"of the endpoint",
			[]string{`--network=name=six,"driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.log_martians=1,` +
				`net.ipv6.conf.IFNAME.accept_ra=0"`},
			map[string]string{"ipv4/conf/eth0/log_martians": "1", "ipv6/conf/eth0/accept_ra": "0"},
		},
		{
			"IPv6 off for all, by the workload",
			[]string{"--network=six", "--sysctl=net.ipv6.conf.all.disable_ipv6=1"},
			map[string]string{"ipv6/conf/all/disable_ipv6": "1", "ipv6/conf/eth0/disable_ipv6": "1"},
		},
		{
			"IPv6 off for links to come, by the workload",
			[]string{"--network=six", "--sysctl=net.ipv6.conf.default.disable_ipv6=1"},
			map[string]string{"ipv6/conf/default/disable_ipv6": "1"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var had [2]linkState
			for i, runtime := range []string{"runc", "cloister"} {
				name := "settings-" + runtime
				b.start(t, name, append([]string{"--runtime=" + runtime}, tt.options...))
				had[i] = b.linkState(t, name)
				b.MustDocker(t, "rm", "--force", name)
			}
			for name, value := range tt.want {
				if got := had[1].settings[name]; got != value {
					t.Errorf("%s = %q, want %q", name, got, value)
				}
			}
			// The guest's link has the link-local address of the engine's, and makes none of its
			// own.
			delete(had[0].settings, "ipv6/conf/eth0/addr_gen_mode")
			for name, value := range had[0].settings {
				if got, there := had[1].settings[name]; there && got != value {
					t.Errorf("%s = %q, and %q under runc", name, got, value)
				}
			}
			if had[0].network != had[1].network {
				t.Errorf("the link has\n%s\nand under runc\n%s", had[1].network, had[0].network)
			}
		})
	}
	t.Run("connect", func(t *testing.T) {
		b.start(t, "later", nil)
		b.MustDocker(t, "network", "connect", "--driver-opt=com.docker.network.endpoint.sysctls=net.ipv4.conf.IFNAME.arp_notify=1",
			"apart", "later")
		b.awaitIn(t, "later", "1 1",
			"cat /sys/class/net/eth1/carrier >/dev/null && echo $(cat /proc/sys/net/ipv4/conf/eth1/arp_notify "+
				"/proc/sys/net/ipv6/conf/eth1/disable_ipv6)")
		b.say(t, "later", "IPv6 addresses of links without IPv6", "", "grep -v ' lo$' /proc/net/if_inet6")
		b.MustDocker(t, "rm", "--force", "later")
	})
	t.Run("a forged router advertisement", func(t *testing.T) { forgedRouter(t, b) })
	t.Run("link-local addresses of a network without inter-container connections", func(t *testing.T) {
		b.start(t, "one", []string{"--network=apart"}, "sh", "-c", "mkdir /www; echo page >/www/f; httpd -f -p 80 -h /www")
		b.start(t, "two", []string{"--network=apart"})
		b.say(t, "one", "the server listens for IPv6 too", "1", "until grep -q ':0050 ' /proc/net/tcp6; do sleep 0.1; done; echo 1")
		address := linkLocal(t, b.in(t, "one", "cat /sys/class/net/eth0/address"))
		if got := b.in(t, "two", `printf 'GET /f HTTP/1.0\r\n\r\n' | nc -w 5 `+address+`%eth0 80`); strings.Contains(got, "page") {
			t.Errorf("%s of another container is reached over link-local IPv6: %q", address, got)
		}
		for _, name := range []string{"one", "two"} {
			b.say(t, name, "IPv6 addresses", "", "grep -v ' lo$' /proc/net/if_inet6")
			b.MustDocker(t, "rm", "--force", name)
		}
	})
}

// linkState is what a container has of its network.
type linkState struct {
	settings map[string]string // of all, default and eth0, by their paths below /proc/sys/net
	network  string            // addresses and routes that its kernel has not made itself
}

func (b *engine) linkState(t *testing.T, name string) linkState {
	t.Helper()
	// What differs by design: each has a MAC address, and addresses, of its own.
	s := linkState{
		settings: map[string]string{},
		network: b.in(t, name, `ip -6 -o addr show dev eth0 scope global | awk '{print $3}'; ip -o -4 addr show dev eth0 | awk '{print $3}'
ip route | awk '/^default/ {print $1, $2, $3}'; ip -6 route | awk '/^default/ {print $1, $2, $3}'; grep -c . /proc/net/if_inet6`),
	}
	list := b.in(t, name,
		`cd /proc/sys/net; for i in all default eth0; do for d in ipv4/conf ipv6/conf ipv4/neigh ipv6/neigh; do grep . $d/$i/* `+
			`2>/dev/null; done; done`)
	for line := range strings.Lines(list) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		s.settings[key] = value
	}
	if len(s.settings) < 200 {
		t.Errorf("%d settings of links are read, want some hundreds:\n%s", len(s.settings), list)
	}
	return s
}

// linkLocal is the address that a kernel makes of a MAC address (RFC 4291, appendix A).
func linkLocal(t *testing.T, mac string) string {
	t.Helper()
	var m [6]byte
	for i, part := range strings.Split(mac, ":") {
		var value byte
		for _, c := range part {
			value = value<<4 | byte(strings.IndexRune("0123456789abcdef", c))
		}
		m[i%len(m)] = value
	}
	return netip.AddrFrom16([16]byte{
		0: 0xfe, 1: 0x80, 8: m[0] ^ 2, 9: m[1], 10: m[2], 11: 0xff, 12: 0xfe,
		13: m[3], 14: m[4], 15: m[5],
	}).String()
}

// forgedRouter sends a router advertisement over Docker's bridge, as any container there can. A
// namespace that accepts it shows that it has come.
func forgedRouter(t *testing.T, b *engine) {
	for _, runtime := range []string{"runc", "cloister"} {
		b.start(t, "victim-"+runtime, []string{"--runtime=" + runtime})
	}
	b.sh(t,
		"ip netns add open && ip link add v-open type veth peer name eth0 netns open && ip link set v-open master docker0 up "+
			"&& ip -n open link set eth0 up")
	defer b.sh(t, "ip netns del open && umount /run/netns && rmdir /run/netns")
	b.sh(t, "until ip -n open -6 -o addr show dev eth0 | grep fe80 | grep -vq tentative; do sleep 0.1; done")
	if !await(func() bool {
		b.Place.SendFrame(t, "docker0", host.Advertisement())
		return strings.Contains(b.sh(t, "ip -n open -6 -o addr show dev eth0"), "fd66::")
	}) {
		t.Fatal("no forged advertisement comes over the bridge")
	}
	for _, runtime := range []string{"runc", "cloister"} {
		name := "victim-" + runtime
		// Behind the advertisement in the same queues.
		b.sh(t, "busybox ping -c 1 -W 20 "+b.inspect(t, name, "{{.NetworkSettings.Networks.bridge.IPAddress}}"))
		b.say(t, name, "addresses and routes of a forged advertisement", "0",
			"cat /proc/net/if_inet6 /proc/net/ipv6_route | grep -v ' lo$' | grep -c eth0")
		b.MustDocker(t, "rm", "--force", name)
	}
}

// manyNames looks up one name by 100 threads at once, three times.
func manyNames(t *testing.T, b *engine, name string) {
	program := filepath.Join(b.Place.Dir, "lookup")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-o", program, "cloister/tests/docker/lookup")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	b.MustDocker(t, "cp", program, name+":/bin/lookup")
	b.say(t, name, "100 threads", "0 of 300 failed", "lookup db 100 3")
}
