// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/testenv"
)

// docker is the distribution's Docker, whose default runtime is cloister-oci by its path.
type docker struct {
	*bed

	d *host.Dockerd
}

// TestDocker: what users of a Docker do that takes no shims, only OCI command lines.
func TestDocker(t *testing.T) {
	testenv.NeedTool(t, "iptables")
	b := newBed(t)
	c := b.StartContainerd(t, host.Options{Version: host.Distribution})
	d := &docker{bed: b, d: c.StartDistributionDockerd(t, map[string]any{
		"default-runtime": "cloister", "runtimes": map[string]any{"cloister": map[string]any{"path": b.program}},
		"init-path": testenv.NeedTool(t, "tini-static"),
	})}
	busybox, err := images.Busybox(t.Context(), testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.Dir, "busybox.tar")
	if err := images.Save(file, map[string]v1.Image{images.BusyboxName: busybox}); err != nil {
		t.Fatal(err)
	}
	d.ok(t, "load", "--input", file)
	var major int
	if _, err := fmt.Sscanf(d.ok(t, "version", "--format", "{{.Server.Version}}"), "%d.", &major); err != nil {
		t.Fatal(err)
	}
	d.ok(t, "run", "--rm", "--network=none", "--entrypoint=true", images.BusyboxName) // dockerd keeps what the first container has it make
	// The same for the host's network namespace, whether the container is refused or not.
	d.d.RunDocker(t, "run", "--rm", "--network=host", "--entrypoint=true", images.BusyboxName)
	b.before = b.look(t)
	parts := []part{
		{"Run", d.testRun},
		{"Life", d.testLife},
		{"Exec", d.testExec},
		{"Copy", d.testCopy},
		{"Ports", d.testPorts},
		{"Network", d.testNetwork},
		{"Volumes", d.testVolumes},
		{"Limits", d.testLimits},
	}
	if d.class != "process" { // a plain container may have the host's namespaces
		parts = append(parts, part{"Refused", d.testRefused})
	}
	tally(t, fmt.Sprintf("docker%d%s", major, d.class), parts)
}

// ok runs Docker's command line, which has to succeed.
func (d *docker) ok(t *testing.T, args ...string) string {
	t.Helper()
	return d.d.MustDocker(t, args...)
}

// up starts a container that is taken away when the test ends.
func (d *docker) up(t *testing.T, name string, args ...string) {
	t.Helper()
	t.Cleanup(func() { d.ok(t, "rm", "--force", "--volumes", name) })
	d.ok(t, append([]string{"run", "--detach", "--name", name}, args...)...)
}

// wants waits until a script in a container writes something.
func (d *docker) wants(t *testing.T, want, name, script string) {
	t.Helper()
	if late := host.Await(host.Patience, func() string {
		r := d.d.RunDocker(t, "exec", name, "sh", "-c", script)
		if r.Stdout != want {
			return fmt.Sprintf("%s in %s = %+v, want %q", script, name, r, want)
		}
		return ""
	}); late != "" {
		t.Error(late)
	}
}

func (d *docker) testRun(t *testing.T) {
	r := d.d.RunDocker(t, "run", "--rm", images.BusyboxName, "sh", "-c", "uname -r; echo err >&2; exit 3")
	if strings.Contains(r.Stdout, "cloister") != (d.class != "process") || !strings.Contains(r.Stderr, "err") || r.Code != 3 {
		t.Errorf("run = %+v, want the guest's kernel, err and 3", r)
	}
	if r := d.d.RunDocker(t, "run", "--rm", images.BusyboxName, "nothing"); r.Code != 127 {
		t.Errorf("run of a program that is not there = %+v, want 127", r)
	}
	cmd := d.d.Docker(t.Context(), "run", "--rm", "-i", images.BusyboxName, "cat")
	cmd.Stdin = strings.NewReader("typed\n")
	if r := d.d.Finish(t.Context(), t, cmd); r.Stdout != "typed\n" || r.Code != 0 {
		t.Errorf("run -i cat = %+v", r)
	}
	if r := d.terminal(t, "run", "--rm", "-it", images.BusyboxName); !strings.Contains(r.Stdout, "terminal\r\n") || r.Code != 6 {
		t.Errorf("run -it = %+v", r)
	}
}

// terminal gives Docker's command line a terminal. The container's command says "terminal" if it
// has one, and ends with 6.
func (d *docker) terminal(t *testing.T, args ...string) host.Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	cmd := d.d.Docker(ctx, append(args, "sh", "-c", "test -t 0 && echo terminal; exit 6")...)
	return host.OnTerminal(t, cmd, nil)
}

func (d *docker) testLife(t *testing.T) {
	since := d.must(t, "date", "+%s.%N")
	d.up(t, "one", images.BusyboxName, "sh", "-c",
		"trap 'exit 4' TERM; trap 'echo told' USR1; echo started; sleep 1000 & while :; do wait; done")
	if late := host.Await(host.Patience, func() string {
		if got := d.ok(t, "logs", "one"); got != "started\n" {
			return fmt.Sprintf("logs = %q", got)
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
	d.ok(t, "pause", "one")
	d.ok(t, "unpause", "one")
	if got := d.ok(t, "top", "one"); !strings.Contains(got, "cloister-oci proxy") {
		t.Errorf("top = %q", got)
	}
	if got := d.ok(t, "stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "one"); !strings.HasPrefix(got, "one ") ||
		got == "one 0\n" {
		t.Errorf("stats = %q", got)
	}
	d.ok(t, "rename", "one", "two")
	d.ok(t, "rename", "two", "one")
	ended := d.attach(t, "one")
	d.ok(t, "stop", "--time", host.Grace, "one")
	if r := ended(); r.Code != 4 {
		t.Errorf("attach = %+v, want the container's exit status 4", r)
	}
	if got := d.ok(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one"); got != "exited 4\n" {
		t.Errorf("after stop: %q", got)
	}
	d.ok(t, "start", "one")
	d.ok(t, "kill", "one")
	if got := d.ok(t, "wait", "one"); got != "137\n" {
		t.Errorf("wait after kill = %q", got)
	}
	d.ok(t, "restart", "--time", "0", "one")
	got := d.ok(t, "events", "--since", strings.TrimSpace(since), "--until", strings.TrimSpace(d.must(t, "date", "+%s.%N")),
		"--filter", "type=container", "--format", "{{.Action}} {{.Actor.Attributes.exitCode}}")
	for _, want := range []string{"create ", "start ", "pause ", "rename ", "die 4", "die 137", "restart "} {
		if !strings.Contains(got, want) {
			t.Errorf("no event %q in\n%s", want, got)
		}
	}
}

// attach attaches to a container that says "told" on USR1, and waits until it has been heard. What
// it gives waits for the command's end.
func (d *docker) attach(t *testing.T, name string) func() host.Result {
	t.Helper()
	cmd := d.d.Docker(t.Context(), "attach", "--no-stdin", name)
	out, err := os.Create(filepath.Join(d.Dir, "attached"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	cmd.Stdout = out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if late := host.Await(host.Patience, func() string {
		d.ok(t, "kill", "--signal", "USR1", name)
		if data, err := os.ReadFile(out.Name()); err != nil || !strings.Contains(string(data), "told\n") {
			return fmt.Sprintf("attach has %q, %v", data, err)
		}
		return ""
	}); late != "" {
		t.Error(late)
	}
	return func() host.Result {
		_ = cmd.Wait() // the status says it
		return host.Result{Code: cmd.ProcessState.ExitCode()}
	}
}

func (d *docker) testExec(t *testing.T) {
	d.up(t, "one", images.BusyboxName, "sleep", "1000")
	if r := d.d.RunDocker(t, "exec", "one", "sh", "-c", "echo out; echo err >&2; exit 5"); r != (host.Result{
		Stdout: "out\n",
		Stderr: "err\n", Code: 5,
	}) {
		t.Errorf("exec = %+v", r)
	}
	if r := d.d.RunDocker(t, "exec", "one", "nothing"); r.Code != 126 && r.Code != 127 {
		t.Errorf("exec of a program that is not there = %+v", r)
	}
	if r := d.terminal(t, "exec", "-it", "one"); !strings.Contains(r.Stdout, "terminal\r\n") || r.Code != 6 {
		t.Errorf("exec -it = %+v", r)
	}
	d.ok(t, "exec", "--detach", "one", "touch", "/made")
	d.wants(t, "/made\n", "one", "ls /made")
}

func (d *docker) testCopy(t *testing.T) {
	file := filepath.Join(d.Dir, "file")
	if err := os.WriteFile(file, []byte("copied\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.ok(t, "volume", "rm", "--force", "data") })
	d.up(t, "one", "-v", "data:/data", images.BusyboxName, "sh", "-c", "echo made >/made; sleep 1000")
	d.wants(t, "made\n", "one", "cat /made")
	d.ok(t, "cp", file, "one:/tmp/copied")
	d.ok(t, "cp", file, "one:/data/file")
	d.wants(t, "copied\ncopied\n", "one", "cat /tmp/copied /data/file")
	d.ok(t, "cp", "one:/made", file)
	if data, err := os.ReadFile(file); err != nil || string(data) != "made\n" {
		t.Errorf("cp out of the container = %q, %v", data, err)
	}
}

// testPorts: a published port, also after the daemon was started again under its container.
func (d *docker) testPorts(t *testing.T) {
	d.up(t, "one", "-p", "8080:80", images.BusyboxName, "sh", "-c", server)
	d.awaitPage(t, 8080)
	const state = "{{.State.Status}} {{.State.Pid}} {{.RestartCount}}"
	before := d.ok(t, "inspect", "-f", state, "one")
	d.d.Stop(t, "TERM")
	d.d.Start(t)
	if after := d.ok(t, "inspect", "-f", state, "one"); after != before || !strings.HasPrefix(after, "running ") {
		t.Errorf("the container after a restart of dockerd = %q, want %q", after, before)
	}
	d.awaitPage(t, 8080)
	d.wants(t, "here\n", "one", "echo here")
}

// testNetwork: the link is put into the sandbox's network namespace by a prestart hook, and names
// are answered at 127.0.0.11.
func (d *docker) testNetwork(t *testing.T) {
	d.ok(t, "network", "create", "front")
	t.Cleanup(func() { d.ok(t, "network", "rm", "front") })
	d.up(t, "web", "--network", "front", images.BusyboxName, "sh", "-c", server)
	d.up(t, "client", "--network", "front", images.BusyboxName, "sleep", "1000")
	d.wants(t, "page\n", "client", "wget -qO- http://web/")
	d.wants(t, "nameserver 127.0.0.11\n", "client", "grep nameserver /etc/resolv.conf")
}

func (d *docker) testVolumes(t *testing.T) {
	folder := filepath.Join(d.Dir, "volume")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	d.ok(t, "run", "--rm", "-v", folder+":/v", "-v", folder+":/r:ro", "--tmpfs", "/t", images.BusyboxName, "sh", "-c",
		"echo made >/v/f && ! touch /r/g && touch /t/h")
	if data, err := os.ReadFile(filepath.Join(folder, "f")); err != nil || string(data) != "made\n" {
		t.Errorf("the volume's file = %q, %v", data, err)
	}
}

func (d *docker) testLimits(t *testing.T) {
	d.up(t, "one", "--cap-drop", "all", "--cap-add", "chown", "--read-only", "--memory", "128m", "--init", "--hostname", "box",
		"--user", "1000:100", "--pids-limit", "50", "--network", "none", "--ulimit", "nofile=100:200", "--shm-size", "8m",
		"--sysctl", "net.ipv4.ip_unprivileged_port_start=81", "--cpus", "0.5", "--group-add", "55", "--oom-score-adj", "77",
		"--volume", "/anonymous", images.BusyboxName, "sleep", "1000")
	d.ok(t, "exec", "--user", "0", "one", "sh", "-c", "echo kept >/anonymous/f")
	const memory = "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"
	const pids = "cat /sys/fs/cgroup/pids.max || cat /sys/fs/cgroup/pids/pids.max"
	const quota = "cut -d' ' -f1 /sys/fs/cgroup/cpu.max || cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us"
	var want, script strings.Builder // one exec for all: each takes a second in an emulated guest
	for _, tt := range []struct{ want, script string }{
		{"0000000000000001\n", "grep CapBnd /proc/self/status | cut -f2"},
		{"1000 100\n", "echo $(id -u) $(id -g)"},
		{"box\n", "hostname"},
		{"134217728\n", memory},
		{"50\n", pids},
		{"50000\n", quota},
		{"lo\n", "ls /sys/class/net | grep -E '^(lo|eth.*)$'"},
		{"100 200\n", "grep 'open files' /proc/1/limits | tr -s ' ' | cut -d' ' -f4,5"},
		{"8192\n", "df -k /dev/shm | tail -n 1 | tr -s ' ' | cut -d' ' -f2"},
		{"81\n", "cat /proc/sys/net/ipv4/ip_unprivileged_port_start"},
		{"100 55\n", "id -G"},
		{"77\n", "cat /proc/1/oom_score_adj"},
		{"kept\n", "cat /anonymous/f"},
		{"docker-init\n", "cat /proc/1/comm"},
	} {
		want.WriteString(tt.want)
		script.WriteString("(" + tt.script + ");")
	}
	d.wants(t, want.String(), "one", script.String())
	if r := d.d.RunDocker(t, "exec", "one", "touch", "/no"); r.Code == 0 || !strings.Contains(r.Stderr, "Read-only") {
		t.Errorf("write with --read-only = %+v", r)
	}
	d.ok(t, "update", "--memory", "64m", "--cpus", "0.25", "--pids-limit", "60", "one")
	d.wants(t, "67108864\n60\n25000\n", "one", "("+memory+"); ("+pids+"); "+quota)
}

func (d *docker) testRefused(t *testing.T) {
	for _, args := range [][]string{{"--network", "host"}, {"--pid", "host"}, {"--ipc", "host"}, {"--uts", "host"}} {
		r := d.d.RunDocker(t, append(append([]string{"run", "--rm"}, args...), images.BusyboxName, "true")...)
		if r.Code == 0 || !strings.Contains(r.Stderr, "linux.namespaces") {
			t.Errorf("run %v = %+v, want an error that names linux.namespaces", args, r)
		}
	}
}
