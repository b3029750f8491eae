// SPDX-License-Identifier: Apache-2.0

package network

import (
	"strconv"
	"strings"
	"testing"

	beds "cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// bed is a daemon in a private place that is a router: br0 with 10.88.0.1 and fd88::1.
type bed struct {
	*beds.Bed
	t *testing.T
}

func newBed(t *testing.T, cloister string) *bed {
	t.Helper()
	testenv.NeedTool(t, "tc")
	b := &bed{beds.New(t, host.Options{Cloister: cloister}), t}
	// With an address of its own: a bridge's is the lowest of its ports, else, and changes with
	// them.
	b.sh("ip link add br0 address 02:00:00:00:88:01 type bridge && ip addr add 10.88.0.1/24 dev br0 && ip addr add " +
		"fd88::1/64 dev br0 nodad && ip link set br0 up")
	return b
}

// sh runs a script in the place and gives what it wrote.
func (b *bed) sh(script string) string {
	b.t.Helper()
	return strings.TrimSpace(b.Place.Run(b.t, "sh", "-ec", script))
}

// plug makes a namespace, if it is not there, and a veth from br0 to its link.
func (b *bed) plug(namespace, link, four, six string) {
	b.t.Helper()
	b.sh(`ip netns list | grep -qw ` + namespace + ` || { ip netns add ` + namespace + `; ip -n ` + namespace + ` link set lo up; }
n=` + namespace + `; l=` + link + `
ip link add v$n$l mtu 1400 master br0 type veth peer name $l mtu 1400 netns $n
ip link set v$n$l up
ip -n $n addr add ` + four + ` dev $l
ip -n $n addr add ` + six + ` dev $l nodad
ip -n $n link set $l up`)
}

// run starts a container in a namespace; it is taken away when the test ends.
func (b *bed) run(id, namespace string, command ...string) {
	b.t.Helper()
	b.Start(b.t, id, []string{"--with-ns", "network:/run/netns/" + namespace}, command...)
}

var execs int

// in runs a script in container c and gives what it wrote to both outputs, without blanks around
// it.
func (b *bed) in(script string) string {
	b.t.Helper()
	execs++
	return strings.TrimSpace(b.Exec(b.t, "c", "e"+strconv.Itoa(execs), "sh", "-c", script+" 2>&1").Stdout)
}

// say compares what a script in container c wrote.
func (b *bed) say(what, want, script string) {
	b.t.Helper()
	if got := b.in(script); got != want {
		b.t.Errorf("%s: %s = %q, want %q", what, script, got, want)
	}
}
