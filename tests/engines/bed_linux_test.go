// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"cloister/tests/host"
	"cloister/tests/leaks"
	"cloister/tests/testenv"
)

// bed is a place in which cloister-oci runs, with nothing but what an engine gives it.
type bed struct {
	*host.Place

	class   string // of its containers; empty: the default
	program string // cloister-oci
	parent  string // the cgroup below which containers have theirs
	env     []string
	keeps   []leaks.Kind   // what the engine itself keeps, for as long as the place lasts
	before  leaks.Snapshot // what the test began with
}

func newBed(t *testing.T) *bed {
	t.Helper()
	testenv.NeedSandbox(t)
	b := &bed{Place: host.New(t), program: filepath.Join(testenv.Build(t), "cloister-oci"), class: os.Getenv("CLOISTER_TEST_CLASS")}
	b.parent = filepath.Base(b.Dir)
	b.env = append(os.Environ(), "CLOISTER_CONFIG="+b.WriteCloisterConfig(t, ""),
		"PATH="+testenv.Build(t)+":"+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if b.class != "" {
		b.WriteClass(t, b.class)
	}
	b.before = b.look(t)
	t.Cleanup(func() {
		if !t.Failed() {
			b.nothingLeft(t)
		}
		for group := b.parent; group != "."; group = filepath.Dir(group) {
			leaks.RemoveCgroups(t, group)
		}
	})
	return b
}

func (b *bed) look(t *testing.T) leaks.Snapshot {
	t.Helper()
	found := leaks.Look(t, leaks.Host{Place: b.Place, CgroupParent: b.parent, Folders: []string{
		"/run/cloister", "/run/cloister-oci", "/run/containerd/s", filepath.Join(b.Dir, "cloister"),
		"/run/containerd/runc/" + b.parent, "/run/docker/runtime-runc/moby", "/run/crio-runtime",
	}})
	// Of the daemon itself, with a new name at each of its starts.
	found[leaks.Socket] = slices.DeleteFunc(found[leaks.Socket], func(name string) bool {
		return strings.HasPrefix(name, "/run/docker/libnetwork/")
	})
	for _, kind := range b.keeps {
		delete(found, kind)
	}
	return found
}

// nothingLeft waits until the place is as it was before.
func (b *bed) nothingLeft(t *testing.T) {
	t.Helper()
	if left := host.Await(host.Patience, func() string { return b.leftover(t) }); left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// leftover lists what is there now and was not before.
func (b *bed) leftover(t *testing.T) string {
	t.Helper()
	return strings.Join(leaks.Compare(b.before, b.look(t)), "\n")
}

// result is how a program ended.
type result struct {
	out, err string
	code     int
}

// run runs a program in the place to its end.
func (b *bed) run(t *testing.T, name string, args ...string) result {
	t.Helper()
	return b.input(t, "", name, args...)
}

// quietly runs the command line. Its streams are nobody's: a process that outlives the call would
// keep those of the test open.
func (b *bed) quietly(t *testing.T, args ...string) result {
	t.Helper()
	return b.run(t, "sh", append([]string{"-c", `exec "$@" </dev/null >/dev/null 2>&1`, "sh", b.program}, args...)...)
}

// input is run with something on stdin.
func (b *bed) input(t *testing.T, stdin, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(t.Context()), host.CallLimit,
		fmt.Errorf("not over after %s", host.CallLimit))
	defer cancel()
	cmd := b.Command(ctx, name, args...)
	cmd.Env = b.env
	cmd.Stdin = strings.NewReader(stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok || ctx.Err() != nil {
		t.Fatalf("%s %s: %v: %v\n%s", name, strings.Join(args, " "), err, context.Cause(ctx), errs.String())
	}
	return result{out.String(), errs.String(), cmd.ProcessState.ExitCode()}
}

// onTerminal is run with a terminal, on which word is typed.
func (b *bed) onTerminal(t *testing.T, name string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	cmd := b.Command(ctx, name, args...)
	cmd.Env = b.env
	r := host.OnTerminal(t, cmd, host.Type(t, "word\n"))
	return result{out: r.Stdout, code: r.Code}
}

// must is run of a program that has to succeed; it gives what it wrote to stdout.
func (b *bed) must(t *testing.T, name string, args ...string) string {
	t.Helper()
	r := b.run(t, name, args...)
	if r.code != 0 {
		t.Fatalf("%s %s: exit %d\n%s%s", name, strings.Join(args, " "), r.code, r.out, r.err)
	}
	return r.out
}

// oci runs cloister-oci, which has to succeed.
func (b *bed) oci(t *testing.T, args ...string) string {
	t.Helper()
	return b.must(t, b.program, args...)
}

// create makes the container one, whose streams are nobody's: a process that outlives the call
// would keep those of the test open.
func (b *bed) create(t *testing.T, flags ...string) {
	t.Helper()
	args := append([]string{"-c", `exec "$@" </dev/null >/dev/null 2>&1`, "sh", b.program, "create"}, flags...)
	b.must(t, "sh", append(args, "one")...)
}

// bundle makes the bundle of the container one: busybox that runs a command. change may be nil.
func (b *bed) bundle(t *testing.T, command []string, change func(*specs.Spec)) string {
	t.Helper()
	return b.bundleOf(t, "one", command, change)
}

// bundleOf makes the bundle of any container.
func (b *bed) bundleOf(t *testing.T, id string, command []string, change func(*specs.Spec)) string {
	t.Helper()
	dir := filepath.Join(b.Dir, id)
	for _, name := range []string{"bin", "proc", "sys", "dev", "etc", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, "rootfs", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	busybox, err := os.ReadFile(testenv.NeedBusybox(t))
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, "rootfs/bin/busybox"), busybox, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	for _, applet := range []string{"sh", "sleep", "cat", "id", "ps", "kill", "stty", "true"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "rootfs/bin", applet)); err != nil {
			t.Fatal(err)
		}
	}
	b.oci(t, "spec", "--bundle", dir)
	data, err := os.ReadFile(filepath.Join(dir, "config.json"))
	if err != nil {
		t.Fatal(err)
	}
	var spec specs.Spec
	if err := json.Unmarshal(data, &spec); err != nil {
		t.Fatal(err)
	}
	spec.Process.Terminal, spec.Process.Args = false, command
	spec.Linux.CgroupsPath = "/" + b.parent + "/" + id
	if change != nil {
		change(&spec)
	}
	if data, err = json.Marshal(spec); err == nil {
		err = os.WriteFile(filepath.Join(dir, "config.json"), data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// conmon has conmon create a container as Podman does; start runs it. It gives the files that
// conmon writes.
func (b *bed) conmon(t *testing.T, bundle string) monitored {
	t.Helper()
	const id = "one"
	testenv.NeedTool(t, "conmon")
	m := monitored{pid: filepath.Join(bundle, "pid"), log: filepath.Join(bundle, "log"), exit: filepath.Join(bundle, "exits", id)}
	if err := os.Mkdir(filepath.Dir(m.exit), 0o755); err != nil {
		t.Fatal(err)
	}
	b.must(t, "conmon", "-c", id, "-u", id, "-r", b.program, "-b", bundle, "-p", m.pid, "-n", id,
		"--exit-dir", filepath.Dir(m.exit), "-l", "k8s-file:"+m.log, "--full-attach", "--socket-dir-path", bundle)
	// Without Podman's pipe conmon says nothing when the container has been created. The pid is in
	// its file before that.
	if late := host.Await(host.Patience, func() string {
		if _, err := os.Stat(m.pid); err != nil {
			data, _ := os.ReadFile(m.log)
			return fmt.Sprintf("conmon has no pid: %v: %s", err, data)
		}
		for _, line := range b.Processes(t) {
			if strings.HasPrefix(line, b.program) && strings.Contains(line, " create ") {
				return "create has not ended: " + line
			}
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
	return m
}

// monitored are the files of a conmon.
type monitored struct{ pid, log, exit string }

// status waits until conmon has the exit status of its container.
func (m monitored) status(t *testing.T) string {
	t.Helper()
	var data []byte
	if late := host.Await(host.Patience, func() string {
		var err error
		if data, err = os.ReadFile(m.exit); err != nil || len(data) == 0 {
			return "conmon has no exit status"
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
	return string(data)
}

// state gives the status and the pid of the container one.
func (b *bed) state(t *testing.T) (status string, pid int) {
	t.Helper()
	var s struct {
		Status string `json:"status"`
		PID    int    `json:"pid"`
	}
	if err := json.Unmarshal([]byte(b.oci(t, "state", "one")), &s); err != nil {
		t.Fatal(err)
	}
	return s.Status, s.PID
}

// part is one thing that an engine's users do.
type part struct {
	name string
	run  func(*testing.T)
}

// tally runs the parts and prints the engine's closing line.
func tally(t *testing.T, engine string, parts []part) {
	t.Helper()
	var passed, failed, skipped int
	for _, p := range parts {
		ran, left := false, false // -run may leave it out
		ok := t.Run(p.name, func(t *testing.T) {
			ran = true
			defer func() { left = t.Skipped() }()
			p.run(t)
		})
		switch {
		case !ran:
		case left:
			skipped++
		case ok:
			passed++
		default:
			failed++
		}
	}
	fmt.Printf("%s: %d passed, %d failed, %d skipped\n", engine, passed, failed, skipped)
}
