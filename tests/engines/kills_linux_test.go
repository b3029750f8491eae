// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"cloister/tests/host"
	"cloister/tests/testenv"
)

// daemonName is under which name the daemon tells its steps: that of its bundle's folder.
const daemonName = "bundle"

// killBed is a bed whose programs tell their steps and die at one of them.
type killBed struct {
	*bed

	dir    string // see the programs' crashEnv
	bundle string
	short  string // the bundle of a container that ends by itself
}

func newKillBed(t *testing.T) *killBed {
	t.Helper()
	k := &killBed{bed: newBed(t), dir: t.TempDir()}
	programs := filepath.Join(k.Dir, "programs")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "crashtest,grpcnotrace,no_grpc", "-o", programs+"/",
		"./cmd/cloister-oci", "./cmd/containerd-shim-cloister-v2")
	cmd.Dir, cmd.Env = testenv.Tree(t), append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build with the tag crashtest: %v\n%s", err, text)
	}
	k.program = filepath.Join(programs, "cloister-oci")
	k.env = append(k.env, "CLOISTER_CRASHTEST="+k.dir)
	k.bundle = k.bed.bundle(t, []string{"sleep", "1000"}, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: k.Dir, Options: []string{"rbind", "ro"}})
	})
	k.short = k.bundleOf(t, "short", []string{"true"}, nil)
	k.before = k.look(t)
	return k
}

// life takes a container through everything, as an engine that goes on after an error.
func (k *killBed) life(t *testing.T) []result {
	t.Helper()
	file := func(name string) string { return filepath.Join(k.dir, name) }
	var results []result
	for _, args := range [][]string{
		{"create", "--bundle", k.bundle, "--pid-file", file("pid"), "one"},
		{"start", "one"},
		{"exec", "--detach", "--pid-file", file("exec.pid"), "one", "sleep", "1000"},
		{"exec", "one", "true"},
		{"kill", "one", "KILL"},
		{"delete", "--force", "one"},
	} {
		r := k.quietly(t, args...)
		if args[0] == "kill" && r.code == 0 {
			k.ends(t)
		}
		results = append(results, r)
	}
	return results
}

// ends waits until the container has stopped, as an engine does before it deletes. The state is
// asked by a program that tells no steps.
func (k *killBed) ends(t *testing.T) {
	t.Helper()
	if late := host.Await(host.Patience, func() string {
		r := k.run(t, "env", "-u", "CLOISTER_CRASHTEST", k.program, "state", "one")
		if r.code == 0 && !strings.Contains(r.out, `"stopped"`) {
			return "after kill: " + r.out
		}
		return ""
	}); late != "" {
		t.Error(late)
	}
}

// shortLife is a life by the verb run alone.
func (k *killBed) shortLife(t *testing.T) []result {
	t.Helper()
	return []result{k.quietly(t, "run", "--bundle", k.short, "one")}
}

// steps reads and forgets the steps of a program, in the order in which they were first reached.
func (k *killBed) steps(t *testing.T, name string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(k.dir, name))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	_ = os.Remove(filepath.Join(k.dir, name))
	var out []string
	for line := range strings.Lines(string(data)) {
		if line = strings.TrimSpace(line); !slices.Contains(out, line) {
			out = append(out, line)
		}
	}
	return out
}

// TestKilledAtEveryStep kills the command line, its proxies and its daemon at each of their steps.
// Whatever is left then, delete --force takes away.
func TestKilledAtEveryStep(t *testing.T) {
	k := newKillBed(t)
	for i, r := range k.life(t) {
		if r.code != 0 {
			t.Fatalf("call %d of a life without a crash: %+v", i, r)
		}
	}
	k.nothingLeft(t)
	own, daemon := k.steps(t, "oci.steps"), k.some(k.steps(t, daemonName+".steps"))
	for _, want := range []string{
		"create: folder made", "create: pid written", "call: answered", "delete: task deleted", "exec: pid written",
		"proxy: settled", "proxy: process made, of an exec", "proxy: process ended",
	} {
		if !slices.Contains(own, want) {
			t.Errorf("no step %q among %q", want, own)
		}
	}
	if len(daemon) == 0 {
		t.Error("the daemon has told no steps")
	}
	for _, step := range own {
		t.Run(step, func(t *testing.T) { k.dies(t, k.life, "oci", step) })
	}
	for _, step := range daemon {
		t.Run("daemon: "+step, func(t *testing.T) { k.dies(t, k.life, daemonName, step) })
	}
	if r := k.shortLife(t)[0]; r.code != 0 {
		t.Fatalf("run = %+v", r)
	}
	_ = k.steps(t, daemonName+".steps")
	run := k.ofRun(k.steps(t, "oci.steps"))
	for _, step := range run {
		t.Run("run: "+step, func(t *testing.T) { k.dies(t, k.shortLife, "oci", step) })
	}
	t.Run("calls", k.testCalls)
	t.Logf("killed at %d steps of the command line, %d of run and %d of the daemon", len(own), len(run), len(daemon))
}

// some are the steps of the daemon that are different for the command line: the first, those around
// the calls' ends, and the last. With guests, the stage crash kills the same program at every one;
// for plain containers, this test does.
func (k *killBed) some(steps []string) []string {
	if k.class == "process" {
		return steps
	}
	var out []string
	for i, s := range steps {
		if i == 0 || i == len(steps)/4 || i == len(steps)-1 || strings.HasPrefix(s, "start") || strings.HasPrefix(s, "exec started") {
			out = append(out, s)
		}
	}
	return out
}

// ofRun are the steps of run at which it leaves what create, start and delete do not: a container
// that runs, and one that has ended. Each one starts a guest; plain containers have all steps.
func (k *killBed) ofRun(steps []string) []string {
	if k.class == "process" {
		return steps
	}
	return []string{"call: answered", "delete: process ended"}
}

// dies has a program die at a step of a life.
func (k *killBed) dies(t *testing.T, life func(*testing.T) []result, program, step string) {
	at := k.dieAt(t, program, step)
	results := life(t)
	reached := k.steps(t, program+".steps")
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(reached, step) {
		t.Errorf("a second life did not reach the step: %q", reached)
	}
	k.oci(t, "delete", "--force", "one")
	if left := host.Await(host.Patience, func() string { return k.leftover(t) }); left != "" {
		t.Errorf("left behind:\n%s\nthe calls gave %+v", left, results)
	}
	_ = k.steps(t, "oci.steps")
	_ = k.steps(t, daemonName+".steps")
}

// dieAt has a program die at a step, until the file that it gives is removed.
func (k *killBed) dieAt(t *testing.T, program, step string) string {
	t.Helper()
	at := filepath.Join(k.dir, program+".at")
	if err := os.WriteFile(at, []byte(step), 0o600); err != nil {
		t.Fatal(err)
	}
	return at
}

// testCalls kills the verbs that ask the daemon of a running container something. They write
// nothing on the host themselves: the container goes on, and the same verb succeeds afterwards.
func (k *killBed) testCalls(t *testing.T) {
	k.create(t, "--bundle", k.bundle)
	k.oci(t, "start", "one")
	type at struct{ step, status string } // and what state says then
	running := []at{{"call: connected", "running"}, {"call: answered", "running"}}
	for _, tt := range []struct {
		deaths []at
		args   []string
	}{
		{[]at{{"call: connected", "running"}, {"call: answered", "paused"}}, []string{"pause", "one"}},
		{[]at{{"call: connected", "paused"}, {"call: answered", "running"}}, []string{"resume", "one"}},
		{running, []string{"update", "--pids-limit", "44", "one"}},
		{running, []string{"kill", "one", "WINCH"}},
		{running, []string{"events", "--stats", "one"}},
		{[]at{{"events: following", "running"}}, []string{"events", "--interval", "1h", "one"}},
		{[]at{{"status: answered", "running"}}, []string{"state", "one"}},
		{[]at{{"status: answered", "running"}}, []string{"list"}},
		{[]at{{"ps: found", "running"}}, []string{"ps", "one"}},
	} {
		for _, d := range tt.deaths {
			k.callDies(t, d.step, d.status, tt.args)
		}
	}
	k.oci(t, "delete", "--force", "one")
	_ = k.steps(t, "oci.steps")
	_ = k.steps(t, daemonName+".steps")
}

// callDies kills a verb at a step, and looks at the container after it.
func (k *killBed) callDies(t *testing.T, step, status string, args []string) {
	t.Helper()
	if args[0] == "resume" {
		k.oci(t, "pause", "one")
	}
	at := k.dieAt(t, "oci", step)
	if r := k.quietly(t, args...); r.code != -1 { // by a signal
		t.Errorf("%v, killed at %q = %+v", args, step, r)
	}
	if err := os.Remove(at); err != nil {
		t.Fatal(err)
	}
	got, _ := k.state(t)
	if got != status {
		t.Errorf("state after %v was killed at %q = %s, want %s", args, step, got, status)
	}
	if got == "paused" {
		k.oci(t, "resume", "one")
	}
	switch args[0] {
	case "pause", "resume":
		k.oci(t, "pause", "one")
		k.oci(t, "resume", "one")
	case "events": // one that follows would not end
		k.oci(t, "events", "--stats", "one")
	default:
		k.oci(t, args...)
	}
	k.oci(t, "exec", "one", "true")
}

// TestKilledDuringBoot: an engine kills create while the guest boots, as at a timeout, and deletes
// the container at once. Its proxy lives and takes back what is made after that.
func TestKilledDuringBoot(t *testing.T) {
	b := newBed(t)
	bundle := b.bundle(t, []string{"true"}, nil)
	for later := range 8 {
		t.Run(fmt.Sprintf("%d ms", 100*later), func(t *testing.T) {
			b.killedDuringBoot(t, bundle, time.Duration(100*later)*time.Millisecond)
		})
	}
}

func (b *bed) killedDuringBoot(t *testing.T, bundle string, later time.Duration) {
	created := make(chan result, 1)
	go func() { created <- b.quietly(t, "create", "--bundle", bundle, "one") }()
	find := func(part string) (pid int) {
		for other, line := range b.Processes(t) {
			if strings.HasPrefix(line, b.program) && strings.Contains(line, part) {
				return other
			}
		}
		return 0
	}
	if late := host.Await(host.Patience, func() string {
		if find(" proxy ") == 0 {
			return "create has no proxy"
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
	time.Sleep(later) // whatever it is doing then, nothing may be left
	if create := find(" create "); create != 0 {
		b.Kill(t, create)
	}
	t.Logf("create = %+v", <-created)
	b.oci(t, "delete", "--force", "one")
	if left := host.Await(host.Patience, func() string { return b.leftover(t) }); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// TestAtOnce: eight containers are made, run and taken away at the same time.
func TestAtOnce(t *testing.T) {
	b := newBed(t)
	for i := range 8 {
		b.bundleOf(t, fmt.Sprintf("at-once-%d", i), []string{"sh", "-c", fmt.Sprintf("echo %d; exit %d", i, i)}, nil)
	}
	t.Run("each", func(t *testing.T) {
		for i := range 8 {
			id := fmt.Sprintf("at-once-%d", i)
			t.Run(id, func(t *testing.T) {
				t.Parallel()
				r := b.run(t, b.program, "run", "--bundle", filepath.Join(b.Dir, id), id)
				if want := (result{fmt.Sprintf("%d\n", i), "", i}); r != want {
					t.Errorf("run = %+v, want %+v", r, want)
				}
			})
		}
	})
	if got := b.oci(t, "list", "--quiet"); got != "" {
		t.Errorf("list = %q, want none", got)
	}
}

// TestBadBundles: an error about a bundle uses the engine's names for its parts, and nothing is
// left behind.
func TestBadBundles(t *testing.T) {
	b := newBed(t)
	bundle := b.bundle(t, []string{"true"}, nil)
	config := filepath.Join(bundle, "config.json")
	good, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ name, text, want string }{
		{"no config.json", "", "config.json: no such file"},
		{"empty", " ", "config.json"},
		{"not JSON", "{", "config.json"},
		{"not an object", "[]", "config.json"},
		{"null", "null", "root.path"},
		{"wrong type", `{"process": 3}`, "process"},
		{"no root", `{"ociVersion": "1.0.2", "process": {"args": ["true"], "cwd": "/"}, "linux": {}}`, "root"},
		{"no root file system", strings.Replace(string(good), `"path":"rootfs"`, `"path":"nothing"`, 1), "root.path"},
		{"no process", `{"ociVersion": "1.0.2", "root": {"path": "rootfs"}, "linux": {}}`, "process"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := os.Remove(config); err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if tt.text != "" {
				if err := os.WriteFile(config, []byte(tt.text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			r := b.run(t, b.program, "create", "--bundle", bundle, "one")
			if r.code != 1 || !strings.Contains(r.err, tt.want) {
				t.Errorf("create = %+v, want an error that names %q", r, tt.want)
			}
			if left := host.Await(host.Patience, func() string { return b.leftover(t) }); left != "" {
				t.Errorf("left behind:\n%s", left)
			}
		})
	}
}
