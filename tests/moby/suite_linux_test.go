// SPDX-License-Identifier: Apache-2.0

package moby

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/tests/clients"
	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/suites"
	"cloister/tests/testenv"
)

var (
	update   = flag.Bool("update", false, "write what the suites gave into expected.tsv, for the runtime that they ran with")
	pattern  = flag.String("suite.run", "", "run only the cases that match, without comparing")
	packages = flag.String("suite.packages", "volume system bridge network container", "which of the suites run")
)

const (
	expected = "expected.tsv"
	cloister = "io.containerd.cloister.v2"
)

// TestEveryDifferenceHasItsReason looks at the list alone.
func TestEveryDifferenceHasItsReason(t *testing.T) { suites.Check(t, expected) }

// TestMoby runs the suites with cloister.
func TestMoby(t *testing.T) {
	testenv.NeedSandbox(t)
	run(t, cloister, suites.Cloister)
}

// TestMobyRunc does the same with runc. CLOISTER_PEERS asks for it: the peer's results change with
// its version only.
func TestMobyRunc(t *testing.T) {
	if os.Getenv("CLOISTER_PEERS") == "" {
		t.Skip("CLOISTER_PEERS is not set")
	}
	run(t, "runc", suites.Runc)
}

// run runs each suite with a daemon of its own.
func run(t *testing.T, runtime string, which suites.Column) {
	t.Helper()
	list := suites.Load(t, expected)
	got := map[string]string{}
	for name := range strings.FieldsSeq(*packages) {
		begin, counts := time.Now(), map[string]int{}
		for test, result := range newEngine(t, runtime).run(t, name, which, list) {
			got[name+"/"+test] = result
			counts[result]++
		}
		fmt.Printf("moby %s, %s: %d pass, %d fail, %d skip, %d s\n",
			name, which, counts["pass"], counts["fail"], counts["skip"], int(time.Since(begin).Seconds()))
	}
	switch {
	case *pattern != "":
		t.Logf("%v", got)
	case *update:
		suites.Save(t, expected, which, got)
	default:
		list.Of(strings.Fields(*packages)).Compare(t, which, got)
	}
}

// engine is a daemon with the images that the suites use, and the environment for them.
type engine struct {
	*host.Dockerd
	env []string
}

func newEngine(t *testing.T, runtime string) *engine {
	t.Helper()
	testenv.NeedTool(t, "iptables")
	busybox := testenv.NeedBusybox(t)
	var p *host.Place
	t.Cleanup(func() { // when the place's processes are gone
		if p != nil {
			removeCgroups(t, filepath.Base(p.Dir))
		}
	})
	p = host.New(t)
	c := p.StartContainerd(t, host.Options{Version: host.Current, Cloister: "[timeouts]\nboot = \"5m\"\n"})
	e := &engine{Dockerd: c.StartDockerd(t, map[string]any{
		"default-runtime": runtime, "live-restore": false, "init-path": testenv.NeedTool(t, "tini-static"),
	})}
	image, err := images.Busybox(t.Context(), busybox)
	if err != nil {
		t.Fatal(err)
	}
	set := map[string]v1.Image{}
	for _, name := range []string{
		"busybox:latest", "busybox:glibc", "debian:trixie-slim",
		"hello-world:frozen", "hello-world:latest", "hello-world:amd64", "hello-world:arm64",
	} {
		set["docker.io/library/"+name] = image
	}
	archive := filepath.Join(p.Dir, "images.tar")
	if err := images.Save(archive, set); err != nil {
		t.Fatal(err)
	}
	e.MustDocker(t, "load", "--input", archive)
	e.prepare(t, runtime)
	return e
}

// removeCgroups removes what containers of the cases' own daemons have left below their parent.
func removeCgroups(t *testing.T, parent string) {
	t.Helper()
	for _, pattern := range []string{"/sys/fs/cgroup/", "/sys/fs/cgroup/*/"} {
		tops, err := filepath.Glob(pattern + parent)
		if err != nil {
			t.Fatal(err)
		}
		for _, top := range tops {
			find := exec.CommandContext(context.WithoutCancel(t.Context()), "find", top, "-depth", "-type",
				"d", "-exec", "rmdir", "{}", ";")
			if out, err := find.CombinedOutput(); err != nil {
				t.Logf("%v: %s", err, out)
			}
		}
	}
}

// prepare has the daemons that cases start themselves find the same containerd and runtime. They
// read no configuration but their command line.
func (e *engine) prepare(t *testing.T, runtime string) {
	t.Helper()
	dockerd, bin := clients.Dir(clients.Dockerd), filepath.Join(e.Place.Dir, "wrapped")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	text := fmt.Sprintf("#!/bin/sh\nexec %s/dockerd \"$@\" --default-runtime=%s --cgroup-parent=/%s\n",
		dockerd, runtime, filepath.Base(e.Place.Dir))
	if err := os.WriteFile(filepath.Join(bin, "dockerd"), []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	e.Place.Run(t, "sh", "-ec", "mkdir -p /run/docker/containerd && ln -s "+e.Address+" /run/docker/containerd/containerd.sock")
	path := []string{
		bin, dockerd, clients.Dir(clients.Docker), clients.Dir(clients.Containerd), clients.Dir(clients.Runc), testenv.Build(t),
		"/usr/sbin", "/usr/bin", "/sbin", "/bin",
	}
	e.env = append(e.Env, "DOCKER_HOST=unix:///run/docker.sock", "DEST="+e.Place.Dir, "HOME="+e.Place.Dir, "TMPDIR=/tmp",
		"PATH="+strings.Join(path, ":"))
}

// run runs one suite.
func (e *engine) run(t *testing.T, name string, which suites.Column, list suites.List) map[string]string {
	t.Helper()
	binary := filepath.Join(clients.Need(t, clients.Moby, name+".test"), name+".test")
	dir := filepath.Join(e.Place.Dir, "suite")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if testdata := filepath.Join(filepath.Dir(binary), name); name == "container" {
		if err := os.CopyFS(dir, os.DirFS(testdata)); err != nil {
			t.Fatal(err)
		}
	}
	args := []string{"-test.v", "-test.timeout", "100m", "-test.skip", list.Of([]string{name}).Names().Out(which, leftOut)}
	if *pattern != "" {
		args = append(args, "-test.run", *pattern)
	}
	suite := suites.Suite{Name: "moby-" + name + "-" + string(which), Binary: binary, Dir: dir, Args: args, Env: e.env, Most: 2 * time.Hour}
	return suite.Run(t, e.Place)
}

// leftOut is what needs images of the internet, or a swarm.
const leftOut = "Swarm|Service|Swarmkit|Plugin|Benchmark"
