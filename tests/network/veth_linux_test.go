// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"

	beds "cloister/tests/bed"
	"cloister/tests/host"
)

// get fetches /f: busybox's wget, linked statically, needs libraries to look up even a number.
func get(address, port string) string {
	return `bash -c "exec 3<>/dev/tcp/` + address + `/` + port + `; printf 'GET /f HTTP/1.0\r\n\r\n' >&3; cat <&3"`
}

// TestVeth puts a container into a namespace as CNI leaves it.
func TestVeth(t *testing.T) {
	b := newBed(t, "[machine]\nnics = 2\n")
	b.plug("x", "eth0", "10.88.0.2/24", "fd88::2/64")
	b.sh(`ip -n x route add default via 10.88.0.1
ip -n x -6 route add default via fd88::1
ip -n x route add 10.99.0.0/16 via 10.88.0.1 metric 7
ip -n x rule add to 10.66.0.0/16 table 100 priority 500
ip -n x route add default via 10.88.0.77 table 100
ip -n x -6 rule add from fd88::2 iif lo fwmark 0x5/0xf table 101 priority 501
ip -n x -6 route add fd66::/64 via fd88::1 table 101
ip -n x neigh add 10.88.0.77 lladdr 02:00:00:00:00:77 dev eth0 nud permanent`)
	mac := b.sh("ip -n x -o link show eth0 | sed 's/.*link.ether \\([^ ]*\\).*/\\1/'")
	before := b.sh("ip netns exec x cat /proc/sys/net/ipv4/ip_local_port_range")
	b.run("c", "x", "sh", "-c", "mkdir /www; echo from the guest >/www/f; httpd -p 8080 -h /www; sleep 1000")

	b.say("address of the NIC", mac, "cat /sys/class/net/eth0/address")
	b.say("MTU", "1400", "cat /sys/class/net/eth0/mtu")
	b.say("addresses", "10.88.0.2/24\nfd88::2/64", "ip -o addr show dev eth0 scope global | awk '{print $4}'")
	b.say("routes",
		"10.88.0.0/24 dev eth0 scope link src 10.88.0.2\n10.99.0.0/16 via 10.88.0.1 dev eth0 metric 7\ndefault via 10.88.0.1 dev eth0",
		"ip route | tr -s ' ' | sed 's/ $//' | sort")
	b.say("IPv6 default", "1", "ip -6 route | grep -c '^default via fd88::1 dev eth0'")
	b.say("rules", "10.66.0.9 via 10.88.0.77\n501: from fd88::2 fwmark 0x5/0xf iif lo lookup 101\n1",
		"ip route get 10.66.0.9 | grep -o '.*via [0-9.]*'; ip -6 rule | grep ^501 | tr -s '\t ' ' ' | sed 's/ $//'; grep -c "+
			"^fd66 /proc/net/ipv6_route")
	b.say("neighbour", "1", "ip neigh | grep -ci '10.88.0.77 dev eth0 lladdr 02:00:00:00:00:77.*permanent'")
	b.say("ping", "0\n0", "ping -c 1 -W 5 10.88.0.1 >/dev/null; echo $?; ping -6 -c 1 -W 5 fd88::1 >/dev/null; echo $?")
	b.sh("busybox ping -c 1 -W 5 10.88.0.2 && busybox ping -6 -c 1 -W 5 fd88::2")

	t.Run("to the guest", func(t *testing.T) {
		for _, address := range []string{"10.88.0.2", "fd88::2"} {
			if got := b.sh(get(address, "8080") + " | tail -n 1"); got != "from the guest" {
				t.Errorf("wget %s = %q", address, got)
			}
		}
	})
	t.Run("from the guest", func(*testing.T) {
		b.sh("mkdir /run/www; head -c 3000000 /dev/zero >/run/www/large; echo from the host >/run/www/f; busybox httpd -p 8081 -h /run/www")
		for _, address := range []string{"10.88.0.1", "fd88::1"} {
			b.say("three megabytes", "3000000",
				`printf 'GET /large HTTP/1.0\r\n\r\n' | nc -w 20 `+address+` 8081 | tail -c 3000000 | wc -c`)
		}
	})
	t.Run("host side of the namespace", func(t *testing.T) {
		// An engine's name server dials from inside the namespace with the guest's own address.
		if got := b.sh("ip netns exec x " + get("10.88.0.1", "8081") + " | tail -n 1"); got != "from the host" {
			t.Errorf("the host side of the namespace got %q", got)
		}
	})
	t.Run("links come and go", func(*testing.T) { comeAndGo(b) })
	b.Remove(t, "c")
	t.Run("nothing left", func(t *testing.T) {
		if got := b.sh("ip netns exec x tc qdisc show; ip -n x -o link"); strings.Contains(got, "ingress") ||
			strings.Contains(got, "cloister") {
			t.Errorf("left in the namespace:\n%s", got)
		}
		if after := b.sh("ip netns exec x cat /proc/sys/net/ipv4/ip_local_port_range"); after != before {
			t.Errorf("the namespace's local ports are %q, were %q", after, before)
		}
	})
}

// comeAndGo gives a running guest of two NICs a second link, beside one that no guest can have and
// one more than there are NICs.
func comeAndGo(b *bed) {
	b.t.Helper()
	b.sh(`ip -n x link add odd type vxlan id 3 dstport 4789; ip -n x addr add 10.77.0.1/24 dev odd; ip -n x link set odd up
ip -n x route add 10.98.0.0/16 dev odd; ip -n x route add default dev odd metric 5`)
	b.plug("x", "eth1", "10.88.0.3/24", "fd88::3/64")
	b.plug("x", "eth2", "10.88.0.9/24", "fd88::9/64")
	const until = "until %s; do sleep 0.1; done; "
	links := "echo $(ls /sys/class/net), $(ip -o -4 addr show scope global | awk '{print $4}'), $(ip route | grep -cE '^10.98|metric 5')"
	b.say("a second link, and what cannot be", "eth0 eth1 lo, 10.88.0.2/24 10.88.0.3/24, 0",
		fmt.Sprintf(until, "ip route | grep -q 'dev eth1 .*10.88.0.3'")+links)
	b.sh("busybox ping -c 1 -W 5 10.88.0.3; ip -n x addr add 10.88.0.4/24 dev eth1; ip -n x link set eth1 mtu 1300")
	b.say("changed", "1300", fmt.Sprintf(until, "ip -o -4 addr show dev eth1 | grep -q 10.88.0.4 && grep 1300 /sys/class/net/eth1/mtu"))
	b.sh("ip -n x link del eth1")
	b.say("a NIC that has become free", "eth0 eth2 lo, 10.88.0.2/24 10.88.0.9/24, 0",
		fmt.Sprintf(until, "ip route | grep -q 'dev eth2 .*10.88.0.9'")+links)
	b.sh("busybox ping -c 1 -W 5 10.88.0.9; ip -n x link del eth2; ip -n x link del odd")
	b.say("all gone", "eth0 lo, 10.88.0.2/24, 0", fmt.Sprintf(until, "[ ! -e /sys/class/net/eth2 ]")+links)
	b.sh("ip -n x rule del priority 500; ip -n x route add 10.67.0.0/16 via 10.88.0.1; ip -n x rule add to 10.67.0.0/16 " +
		"uidrange 5-6 table 100 priority 502")
	b.say("a rule is gone, and one that cannot be", "0", fmt.Sprintf(until, "ip route | grep -q ^10.67")+"ip rule | grep -cE '^50[02]'")
	log, err := os.ReadFile(b.LogFile)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, line := range []string{
		"rule 502 of IPv4 cannot be passed to a guest: use a table and conditions of",
		"link odd of kind vxlan cannot be passed to a guest: this kind is not supported",
		"link eth2 of kind veth cannot be passed to a guest: all 2 NICs of the machine are taken: set machine.nics",
	} {
		if got := strings.Count(string(log), line); got != 1 {
			b.t.Errorf("the log says %d times, not once: %s", got, line)
		}
	}
}

// TestFilesOfTheEngine changes hosts between create and start, as Docker does.
func TestFilesOfTheEngine(t *testing.T) {
	b := newBed(t, "")
	b.sh("echo '10.0.0.1 early' >/run/hosts")
	t.Cleanup(func() { b.Remove(t, "c") })
	b.Must(t, "container", "create", "--runtime", b.Runtime, "--mount",
		"type=bind,src=/run/hosts,dst=/etc/hosts,options=rbind:rw",
		beds.Image, "c", "sh", "-c", "cat /etc/hosts >/started; sleep 1000")
	engine, err := client.New(b.Place.Path(b.Address), client.WithDefaultNamespace(b.Namespace))
	if err != nil {
		t.Fatal(err)
	}
	defer engine.Close()
	container, err := engine.LoadContainer(t.Context(), "c")
	if err != nil {
		t.Fatal(err)
	}
	task, err := container.NewTask(t.Context(), cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	b.sh("echo '10.0.0.2 late' >/run/hosts")
	if err := task.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	b.say("hosts", "10.0.0.2 late", "until [ -s /started ]; do sleep 0.1; done; cat /started")
}

// TestKilledShim looks at the namespace after the clean-up that containerd has done for a dead
// shim.
func TestKilledShim(t *testing.T) {
	b := newBed(t, "")
	b.plug("x", "eth0", "10.88.0.2/24", "fd88::2/64")
	b.run("c", "x")
	for pid, line := range b.Place.Processes(t) {
		if strings.Contains(line, "containerd-shim-cloister-v2") {
			b.Place.Kill(t, pid)
		}
	}
	if left := host.Await(host.Patience, func() string {
		got := b.sh("ip netns exec x tc qdisc show; ip -n x -o link")
		if strings.Contains(got, "ingress") || strings.Contains(got, "cloister") {
			return got
		}
		return ""
	}); left != "" {
		t.Errorf("left in the namespace:\n%s", left)
	}
	// The namespace serves the next container.
	b.Remove(t, "c")
	b.run("d", "x")
	b.sh("busybox ping -c 1 -W 5 10.88.0.2")
}
