// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/leaks"
	"cloister/tests/testenv"
)

// bed is a daemon in a private place that is a router: br0 with 10.88.0.1 and fd88::1.
type bed struct {
	*host.Containerd
	t         *testing.T
	namespace string
}

func newBed(t *testing.T, cloister string) *bed {
	t.Helper()
	program := testenv.NeedBusybox(t)
	testenv.NeedOverlay(t)
	testenv.NeedShim(t)
	testenv.NeedGuest(t)
	testenv.NeedQEMU(t)
	testenv.NeedVirtiofsd(t)
	testenv.NeedTool(t, "tc")
	if looked, err := exec.LookPath("busybox"); err == nil {
		program = looked
	}
	image, err := images.Busybox(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	place := host.New(t)
	// A containerd namespace of its own: the cgroups of the host, which other tests use at the same
	// time, have its name.
	b := &bed{t: t, namespace: filepath.Base(place.Dir)}
	t.Cleanup(func() { leaks.RemoveCgroups(t, b.namespace) })
	b.Containerd = place.StartContainerd(t, host.Options{
		Version: host.Current, Cloister: cloister,
		Env: []string{"CONTAINERD_NAMESPACE=" + b.namespace},
	})
	archive := filepath.Join(b.Place.Dir, "busybox.tar")
	if err := images.Save(archive, map[string]v1.Image{images.BusyboxName: image}); err != nil {
		t.Fatal(err)
	}
	b.Must(t, "images", "import", archive)
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
	if len(command) == 0 {
		command = []string{"sleep", "1000"}
	}
	args := []string{
		"run", "--detach", "--runtime", "io.containerd.cloister.v2", "--with-ns",
		"network:/run/netns/" + namespace, images.BusyboxName, id,
	}
	b.t.Cleanup(func() { b.remove(id) })
	b.Must(b.t, append(args, command...)...)
}

// remove kills a container and takes it away; what is gone already does not matter.
func (b *bed) remove(id string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(b.t.Context()), host.Patience)
	defer cancel()
	b.Finish(ctx, b.t, b.Ctr(ctx, "task", "delete", "--force", id))
	b.Finish(ctx, b.t, b.Ctr(ctx, "containers", "delete", id))
}

var execs int

// in runs a script in container c and gives what it wrote to both outputs, without blanks around
// it.
func (b *bed) in(script string) string {
	b.t.Helper()
	execs++
	r := b.Run(b.t, "task", "exec", "--exec-id", "e"+strconv.Itoa(execs), "c", "sh", "-c", script+" 2>&1")
	return strings.TrimSpace(r.Stdout)
}

// say compares what a script in container c wrote.
func (b *bed) say(what, want, script string) {
	b.t.Helper()
	if got := b.in(script); got != want {
		b.t.Errorf("%s: %s = %q, want %q", what, script, got, want)
	}
}
