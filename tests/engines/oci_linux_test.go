// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"cloister/tests/host"
)

// TestRun: output, errors and the exit status of a container are the command's own.
func TestRun(t *testing.T) {
	b := newBed(t)
	bundle := b.bundle(t, []string{"sh", "-c", "echo out; echo err >&2; cat; exit 7"}, nil)
	r := b.input(t, "typed\n", b.program, "run", "--bundle", bundle, "one")
	if want := (result{"out\ntyped\n", "err\n", 7}); r != want {
		t.Errorf("run = %+v, want %+v", r, want)
	}
}

// TestRunOnTerminal: the container's terminal turns newlines, and no other one on the way does.
func TestRunOnTerminal(t *testing.T) {
	b := newBed(t)
	b.WriteClass(t, "process")
	bundle := b.bundle(t, []string{"sh", "-c", "test -t 0 && test -t 1 && echo terminal; read line; echo got:$line; exit 6"},
		func(s *specs.Spec) { s.Process.Terminal = true })
	r := b.onTerminal(t, b.program, "run", "--bundle", bundle, "one")
	if !strings.Contains(r.out, "terminal\r\n") || !strings.Contains(r.out, "got:word\r\n") || r.code != 6 {
		t.Errorf("run = %q, exit %d", r.out, r.code)
	}
}

// TestLifecycle: what conmon and Podman ask of a runtime, from create to delete.
func TestLifecycle(t *testing.T) {
	for _, class := range []string{"vm", "process"} {
		t.Run(class, func(t *testing.T) {
			b := newBed(t)
			b.WriteClass(t, class)
			b.testLifecycle(t, class)
		})
	}
}

func (b *bed) testLifecycle(t *testing.T, class string) {
	t.Helper()
	bundle := b.bundle(t, []string{"sh", "-c", "trap 'exit 9' TERM; echo up; sleep 1000 & wait"}, nil)
	m := b.conmon(t, bundle)
	created, pid := b.state(t)
	if data, err := os.ReadFile(m.pid); created != "created" || err != nil || string(data) != strconv.Itoa(pid) {
		t.Errorf("state after create = %s, pid %d; pid file %q, %v", created, pid, data, err)
	}
	if class == "vm" {
		b.sits(t, pid)
	}
	b.oci(t, "start", "one")
	if status, again := b.state(t); status != "running" || again != pid {
		t.Errorf("state after start = %s, pid %d, want running, %d", status, again, pid)
	}
	if r := b.input(t, "in\n", b.program, "exec", "one", "sh", "-c", "cat; echo err >&2; exit 5"); r != (result{"in\n", "err\n", 5}) {
		t.Errorf("exec = %+v", r)
	}
	b.detaches(t, pid)
	if r := b.run(t, b.program, "delete", "one"); r.code == 0 || !strings.Contains(r.err, "not stopped") {
		t.Errorf("delete of a running container = %+v", r)
	}
	b.oci(t, "pause", "one")
	if status, _ := b.state(t); status != "paused" {
		t.Errorf("state after pause = %s", status)
	}
	b.oci(t, "resume", "one")
	awaitLog(t, m, "up")
	b.counts(t, class)
	b.limits(t)
	b.lists(t, bundle, pid)
	b.oci(t, "kill", "one", "TERM")
	if got := m.status(t); got != "9" {
		t.Errorf("conmon's exit status = %q, want 9", got)
	}
	if status, pid := b.state(t); status != "stopped" || pid != 0 {
		t.Errorf("state after the end = %s, pid %d", status, pid)
	}
	if r := b.run(t, b.program, "kill", "one", "9"); r.code == 0 || !strings.Contains(r.err, "container not running") {
		t.Errorf("kill of a stopped container = %+v", r)
	}
	b.oci(t, "delete", "one")
	if r := b.run(t, b.program, "state", "one"); r.code != 1 || !strings.Contains(r.err, "does not exist") {
		t.Errorf("state of a deleted container = %+v", r)
	}
}

// detaches runs an exec that nobody waits for: the pid of its file is a process of its own, which
// sits where the container's does and ends with the exec.
func (b *bed) detaches(t *testing.T, container int) {
	t.Helper()
	file := filepath.Join(b.Dir, "exec.pid")
	b.must(t, "sh", "-c", `exec "$@" </dev/null >/dev/null 2>&1`, "sh", b.program, "exec", "--detach", "--pid-file", file, "one",
		"sleep", "2345")
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(string(data))
	if err != nil || pid == container {
		t.Fatalf("pid file of an exec = %q, %v, want a process beside the container's %d", data, err, container)
	}
	for _, what := range []string{"ns/net", "cgroup"} {
		read := func(pid int) string {
			const script = `if [ -L "$1" ]; then readlink "$1"; else cat "$1"; fi`
			return b.must(t, "sh", "-c", script, "sh", fmt.Sprintf("/proc/%d/%s", pid, what))
		}
		if got, want := read(pid), read(container); got != want {
			t.Errorf("%s of a detached exec's process = %q, want the container's %q", what, got, want)
		}
	}
	b.must(t, "kill", "-KILL", strconv.Itoa(pid))
	if late := host.Await(host.Patience, func() string {
		if got := b.oci(t, "exec", "one", "ps"); strings.Contains(got, "sleep 2345") {
			return "the exec runs without its process on the host:\n" + got
		}
		return ""
	}); late != "" {
		t.Error(late)
	}
}

// sits compares the proxy's network namespace and cgroup with QEMU's.
func (b *bed) sits(t *testing.T, pid int) {
	t.Helper()
	machine := 0
	for other, line := range b.Processes(t) {
		if strings.Contains(line, "qemu-system") && strings.Contains(line, "-nodefaults") {
			machine = other
		}
	}
	if machine == 0 {
		t.Fatal("no QEMU")
	}
	link := func(pid int) string {
		name, err := os.Readlink(b.Path(fmt.Sprintf("/proc/%d/ns/net", pid)))
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	if got, want := link(pid), link(machine); got != want {
		t.Errorf("network namespace of the container's process = %s, want QEMU's %s", got, want)
	}
	group := func(pid int) string {
		data, err := os.ReadFile(b.Path(fmt.Sprintf("/proc/%d/cgroup", pid)))
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(data)) {
			if strings.Contains(line, "memory") || strings.HasPrefix(line, "0::") && len(line) > len("0::/\n") {
				return line
			}
		}
		return ""
	}
	if got, want := group(pid), group(machine); got != want || !strings.Contains(got, b.parent) {
		t.Errorf("cgroup of the container's process = %s, want QEMU's %s", got, want)
	}
}

// awaitLog waits until conmon's log has a text.
func awaitLog(t *testing.T, m monitored, text string) {
	t.Helper()
	if late := host.Await(host.Patience, func() string {
		if data, err := os.ReadFile(m.log); err != nil || !strings.Contains(string(data), text) {
			return fmt.Sprintf("log %q (%v), want %q", data, err, text)
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
}

// TestProxyKilled: who kills the host process of a container has killed the container.
func TestProxyKilled(t *testing.T) {
	b := newBed(t)
	m := b.conmon(t, b.bundle(t, []string{"sleep", "1000"}, nil))
	b.oci(t, "start", "one")
	_, pid := b.state(t)
	b.Kill(t, pid)
	if got := m.status(t); got != "137" {
		t.Errorf("conmon's exit status = %q, want 137", got)
	}
	b.awaitStopped(t)
	b.oci(t, "delete", "one")
}

// TestProxyForwardsSignals: a signal to the host process of a container is the container's.
func TestProxyForwardsSignals(t *testing.T) {
	b := newBed(t)
	m := b.conmon(t, b.bundle(t, []string{"sh", "-c", "trap 'exit 9' TERM; echo up; sleep 1000 & wait"}, nil))
	b.oci(t, "start", "one")
	awaitLog(t, m, "up")
	_, pid := b.state(t)
	b.must(t, "kill", "-TERM", strconv.Itoa(pid))
	if got := m.status(t); got != "9" {
		t.Errorf("conmon's exit status = %q, want 9", got)
	}
	b.awaitStopped(t)
	b.oci(t, "delete", "one")
}

// TestInheritedDescriptors: what an engine leaks into create is not held open by the daemon.
func TestInheritedDescriptors(t *testing.T) {
	b := newBed(t)
	bundle := b.bundle(t, []string{"true"}, nil)
	leaked := filepath.Join(b.Dir, "leaked")
	b.must(t, "sh", "-c", "exec 9>"+leaked+" && exec "+b.program+" create --bundle "+bundle+" one </dev/null >/dev/null 2>&1")
	for pid, line := range b.Processes(t) {
		if !strings.Contains(line, "cloister") {
			continue
		}
		files, err := filepath.Glob(b.Path(fmt.Sprintf("/proc/%d/fd/*", pid)))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if name, err := os.Readlink(file); err == nil && name == leaked {
				t.Errorf("%.100s holds the engine's descriptor", line)
			}
		}
	}
	b.oci(t, "delete", "one")
}

// TestDaemonKilled: without its daemon a container has stopped, and delete cleans up.
func TestDaemonKilled(t *testing.T) {
	b := newBed(t)
	m := b.conmon(t, b.bundle(t, []string{"sleep", "1000"}, nil))
	b.oci(t, "start", "one")
	for pid, line := range b.Processes(t) {
		if strings.Contains(line, "containerd-shim-cloister") && strings.HasSuffix(line, " serve") {
			b.Kill(t, pid)
		}
	}
	if got := m.status(t); got != "137" {
		t.Errorf("conmon's exit status = %q, want 137", got)
	}
	b.awaitStopped(t)
	b.oci(t, "delete", "--force", "one")
	b.oci(t, "delete", "--force", "one")
}

// awaitStopped waits until the container one has stopped.
func (b *bed) awaitStopped(t *testing.T) {
	t.Helper()
	if late := host.Await(host.Patience, func() string {
		if status, _ := b.state(t); status != "stopped" {
			return fmt.Sprintf("state = %s, want stopped", status)
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
}

// TestRefused: what cannot be honoured is an error in the log and on stderr, and leaves nothing.
func TestRefused(t *testing.T) {
	b := newBed(t)
	hostNet := func(s *specs.Spec) {
		s.Linux.Namespaces = s.Linux.Namespaces[:1]
	}
	bundle := b.bundle(t, []string{"true"}, hostNet)
	log := filepath.Join(bundle, "errors")
	r := b.run(t, b.program, "--log", log, "--log-format", "json", "create", "--bundle", bundle, "--pid-file",
		filepath.Join(bundle, "pid"), "one")
	data, err := os.ReadFile(log)
	if err != nil || r.code != 1 || !strings.Contains(r.err, "linux.namespaces") ||
		!strings.Contains(string(data), `"level":"error","msg":"`) {
		t.Errorf("create = %+v, log %s, %v", r, data, err)
	}
	for _, args := range [][]string{
		{"create", "--bundle", bundle, "--preserve-fds", "1", "one"},
		{"create", "--bundle", filepath.Join(b.Dir, "none"), "one"},
		{"create", "--bundle", bundle, "../one"},
		{"start", "one"},
	} {
		if r := b.run(t, b.program, args...); r.code != 1 {
			t.Errorf("%v = %+v, want exit 1", args, r)
		}
	}
}

// TestRootless: an engine without the host's root is told so, and not by whatever fails first.
func TestRootless(t *testing.T) {
	b := newBed(t)
	bundle := b.bundle(t, []string{"true"}, nil)
	for _, tt := range []struct {
		name, want string
		args       []string
	}{
		{"root of a user namespace", "rootless engine", []string{"unshare", "--user", "--map-root-user"}},
		{"another user", "user 65534", []string{"setpriv", "--reuid=65534", "--clear-groups"}},
	} {
		args := append(tt.args, b.program, "create", "--bundle", bundle, "one")
		if r := b.run(t, args[0], args[1:]...); r.code != 1 || !strings.Contains(r.err, tt.want) || !strings.Contains(r.err, "as root") {
			t.Errorf("%s: create = %+v, want an error that says %q and the remedy", tt.name, r, tt.want)
		}
	}
}

// TestDaemonLog: what the daemon of a sandbox has to say is in a file, which does not grow without
// end.
func TestDaemonLog(t *testing.T) {
	b := newBed(t)
	b.create(t, "--bundle", b.bundle(t, []string{"true"}, nil))
	t.Cleanup(func() { b.oci(t, "delete", "--force", "one") })
	log := b.Path("/run/cloister-oci/one/bundle/log")
	stacks := func() {
		for pid, line := range b.Processes(t) {
			if strings.Contains(line, "containerd-shim-cloister") && strings.HasSuffix(line, " serve") {
				b.Run(t, "kill", "-USR1", strconv.Itoa(pid))
			}
		}
		if late := host.Await(host.Patience, func() string {
			if data, err := os.ReadFile(log); err != nil || !strings.Contains(string(data), "goroutine") {
				return fmt.Sprintf("the log has no stacks: %.200s, %v", data, err)
			}
			return ""
		}); late != "" {
			t.Fatal(late)
		}
	}
	stacks()
	if err := os.WriteFile(log, make([]byte, 2<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	stacks()
	if info, err := os.Stat(log); err != nil || info.Size() > 1<<20 {
		t.Errorf("the log after it was full: %v, %v", info, err)
	}
}

// TestOutputBeforeStopped: an engine that asks for the state until it is "stopped" finds all of the
// output then.
func TestOutputBeforeStopped(t *testing.T) {
	b := newBed(t)
	out := filepath.Join(b.Dir, "out")
	bundle := b.bundle(t, []string{"sh", "-c", "echo said"}, nil)
	b.must(t, "sh", "-c", `out=$1; shift; exec "$@" </dev/null >"$out" 2>&1`, "sh", out, b.program, "create", "--bundle", bundle, "one")
	t.Cleanup(func() { b.oci(t, "delete", "--force", "one") })
	_, pid := b.state(t)
	b.must(t, "kill", "-STOP", strconv.Itoa(pid)) // it writes the output
	b.oci(t, "start", "one")
	if late := host.Await(host.Patience, func() string {
		if r := b.run(t, b.program, "kill", "one", "WINCH"); r.code == 0 {
			return "the container has not ended"
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
	if status, again := b.state(t); status != "running" || again != pid {
		t.Errorf("state with output to be written = %s, pid %d, want running, %d", status, again, pid)
	}
	b.must(t, "kill", "-CONT", strconv.Itoa(pid))
	b.awaitStopped(t)
	if data, err := os.ReadFile(out); err != nil || string(data) != "said\n" {
		t.Errorf("output = %q, %v", data, err)
	}
}

// TestPidFile: the file that is renamed to a pid file cannot be known before, since an engine's pid
// file may be in a folder that others write to.
func TestPidFile(t *testing.T) {
	b := newBed(t)
	bundle := b.bundle(t, []string{"true"}, nil)
	victim := filepath.Join(b.Dir, "victim")
	if err := os.WriteFile(victim, []byte("kept"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(victim, filepath.Join(b.Dir, ".pid")); err != nil {
		t.Fatal(err)
	}
	b.create(t, "--bundle", bundle, "--pid-file", filepath.Join(b.Dir, "pid"))
	t.Cleanup(func() { b.oci(t, "delete", "--force", "one") })
	if data, err := os.ReadFile(victim); err != nil || string(data) != "kept" {
		t.Errorf("the file that a link beside the pid file names = %q, %v", data, err)
	}
	if info, err := os.Lstat(filepath.Join(b.Dir, "pid")); err != nil || !info.Mode().IsRegular() || info.Mode().Perm() != 0o644 {
		t.Errorf("the pid file = %v, %v", info, err)
	}
}

// TestVolumeBehindLink: an engine that looks into a container's root by its pid finds a volume
// where the container has it, also when the image has a link there.
func TestVolumeBehindLink(t *testing.T) {
	b := newBed(t)
	bundle := b.bundle(t, []string{"cat", "/link/file"}, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/link", Type: "bind", Source: "volume", Options: []string{"rbind"}})
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.Mkdir(filepath.Join(bundle, "volume"), 0o755))
	must(os.WriteFile(filepath.Join(bundle, "volume", "file"), []byte("found\n"), 0o644))
	must(os.Mkdir(filepath.Join(bundle, "rootfs", "folder"), 0o755))
	must(os.Symlink("/folder", filepath.Join(bundle, "rootfs", "link")))
	m := b.conmon(t, bundle)
	_, pid := b.state(t)
	if got := b.must(t, "nsenter", "-t", strconv.Itoa(pid), "-m", "-r", "/bin/busybox", "cat", "/folder/file"); got != "found\n" {
		t.Errorf("the volume seen by the proxy's pid = %q", got)
	}
	b.oci(t, "start", "one")
	if got := m.status(t); got != "0" {
		t.Errorf("exit status = %q", got)
	}
	awaitLog(t, m, "found")
	b.oci(t, "delete", "one")
}
