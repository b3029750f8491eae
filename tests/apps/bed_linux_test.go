// SPDX-License-Identifier: Apache-2.0

package apps

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// limit is for what hangs: a program in an emulated guest takes thirty times as long as outside.
const limit = 15 * time.Minute

// ran counts the programs, for the closing line.
var ran struct{ passed, failed, skipped atomic.Int32 }

func TestMain(m *testing.M) {
	code := m.Run()
	fmt.Printf("apps: %d passed, %d failed, %d skipped\n", ran.passed.Load(), ran.failed.Load(), ran.skipped.Load())
	os.Exit(code)
}

// app is a program and what its user does with it. Each runtime has containers and folders of its
// own.
type app struct {
	name    string
	options func(data string) []string // more of ctr run
	command []string                   // the container's first process; none: one that sleeps
	network bool                       // a link of its own, beside the host's 10.88.0.1
	// prepare fills the folder that the containers have as /data.
	prepare func(t *testing.T, b *ground, data string)
	// use gives what the user sees: want, and the same under both runtimes.
	use  func(t *testing.T, c *container) string
	want string
}

// ground is a bed with the root of all programs.
type ground struct {
	*bed.Bed
	root string
	next atomic.Int32 // of addresses
}

func newGround(t *testing.T) *ground {
	t.Helper()
	testenv.NeedRoot(t)
	testenv.NeedTool(t, "debootstrap")
	root, err := makeRoot(t.Context(), testenv.Cache(), debian())
	if err != nil {
		t.Fatalf("the root of the programs: %v", err)
	}
	g := &ground{Bed: bed.New(t, host.Options{Cloister: "[timeouts]\nboot = \"5m\"\n"}), root: root}
	g.Place.Run(t, "sh", "-ec", "ip link add br0 address 02:00:00:00:88:01 type bridge && "+
		"ip addr add 10.88.0.1/24 dev br0 && ip link set br0 up")
	return g
}

// TestApps runs every program under both runtimes, two programs at a time.
func TestApps(t *testing.T) { //nolint:tparallel // its programs run beside each other, and no other test does
	g := newGround(t)
	for _, a := range all() {
		t.Run(a.name, func(t *testing.T) {
			t.Parallel()
			defer count(t)
			runc, cloister := g.run(t, a, bed.Runc), g.run(t, a, bed.Cloister)
			if runc != a.want {
				t.Errorf("under runc it says\n%s\nwant\n%s", runc, a.want)
			}
			if cloister != a.want {
				t.Errorf("under cloister it says\n%s\nwant\n%s", cloister, a.want)
			}
		})
	}
}

func count(t *testing.T) {
	switch {
	case t.Failed():
		ran.failed.Add(1)
	case t.Skipped():
		ran.skipped.Add(1)
	default:
		ran.passed.Add(1)
	}
}

// run uses a program under one runtime.
func (g *ground) run(t *testing.T, a app, runtime string) string {
	t.Helper()
	begin := time.Now()
	id := a.name + "-" + strings.Split(runtime, ".")[2]
	c := &container{t: t, ground: g, app: a, runtime: runtime, id: id, data: filepath.Join(g.Dir, id, "data")}
	c.prepare()
	c.start()
	got := strings.TrimSpace(a.use(t, c))
	c.remove()
	t.Logf("%s: %.1f s", runtime, time.Since(begin).Seconds())
	return got
}

// container is one of an app's, again and again with the same root and the same folder.
type container struct {
	*ground
	t       *testing.T
	app     app
	runtime string
	id      string
	data    string
	root    string
	address string // with a network
	options []string
	number  int
	execs   atomic.Int32
}

// prepare makes the root, an overlay of the common one, the folder and the network.
func (c *container) prepare() {
	c.t.Helper()
	dir := filepath.Join(c.Dir, c.id)
	c.root = filepath.Join(dir, "root")
	for _, d := range []string{c.data, c.root, filepath.Join(dir, "upper"), filepath.Join(dir, "work")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			c.t.Fatal(err)
		}
	}
	layers := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", c.ground.root, dir, dir)
	c.Place.Run(c.t, "mount", "-t", "overlay", "-o", layers, "overlay", c.root)
	if c.app.prepare != nil {
		c.app.prepare(c.t, c.ground, c.data)
	}
	if c.app.options != nil {
		c.options = c.app.options(c.data)
	}
	if c.app.network {
		n := c.next.Add(1) + 1
		c.address = fmt.Sprintf("10.88.0.%d", n)
		c.Place.Run(c.t, "sh", "-ec", fmt.Sprintf(`ip netns add n%d; ip -n n%[1]d link set lo up
ip link add v%[1]d master br0 type veth peer name eth0 netns n%[1]d; ip link set v%[1]d up
ip -n n%[1]d addr add %[2]s/24 dev eth0; ip -n n%[1]d link set eth0 up`, n, c.address))
		c.options = append(c.options, "--with-ns", fmt.Sprintf("network:/run/netns/n%d", n))
	}
}

// start starts the container, which has a new name each time.
func (c *container) start() {
	c.t.Helper()
	c.number++
	name := c.name()
	args := []string{
		"run", "--detach", "--runtime", c.runtime, "--memory-limit", fmt.Sprint(768 << 20),
		"--env", "LC_ALL=C.UTF-8", "--env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"--mount", "type=bind,src=" + c.data + ",dst=/data,options=rbind:rw",
	}
	command := c.app.command
	if len(command) == 0 {
		command = []string{"sleep", "100000"}
	}
	args = append(append(append(args, c.options...), "--rootfs", c.root, name), command...)
	c.t.Cleanup(func() { c.Remove(c.t, name) })
	if r := c.Within(c.t, limit, args...); r.Code != 0 {
		c.t.Fatalf("%s: %s%s", name, r.Stdout, r.Stderr)
	}
}

// again kills the container with all that runs in it, at whatever it is just doing, and starts
// another one in its place.
func (c *container) again() {
	c.t.Helper()
	c.remove()
	c.start()
}

// beside starts another container in the same pod: it has the same folder and network, and its own
// root. It is removed with the test.
func (c *container) beside() *container {
	c.t.Helper()
	tasks := strings.Fields(c.Must(c.t, "task", "list"))
	pid := tasks[slices.Index(tasks, c.name())+1]
	other := &container{t: c.t, ground: c.ground, runtime: c.runtime, id: c.id + "-beside", data: c.data}
	other.prepare()
	other.options = []string{"--with-ns", "network:/proc/" + pid + "/ns/net"}
	other.start()
	return other
}

func (c *container) name() string { return fmt.Sprintf("%s-%d", c.id, c.number) }

func (c *container) remove() {
	c.t.Helper()
	c.Remove(c.t, c.name())
}

// sh runs a script to its end and gives what it wrote. A failure ends the test.
func (c *container) sh(script string) string {
	c.t.Helper()
	begin := time.Now()
	r := c.Within(c.t, limit, "task", "exec", "--exec-id", fmt.Sprintf("e%d", c.execs.Add(1)), c.name(), "sh", "-ec", script)
	c.t.Logf("%s: %.50q in %.1f s", c.id, strings.TrimSpace(script), time.Since(begin).Seconds())
	if r.Code != 0 {
		c.t.Fatalf("%s: %s\nexit %d: %s%s", c.id, script, r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}
