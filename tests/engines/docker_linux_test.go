// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"os"
	"os/exec"
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
	cmd = d.d.Docker(t.Context(), "run", "--rm", "-it", images.BusyboxName, "sh", "-c", "'test -t 0 && echo terminal; exit 6'")
	script := exec.CommandContext(t.Context(), "script", "-qec", strings.Join(cmd.Args, " "), "/dev/null")
	script.Env, script.Dir = cmd.Env, cmd.Dir
	if r := d.d.Finish(t.Context(), t, script); !strings.Contains(r.Stdout, "terminal") || r.Code != 6 {
		t.Errorf("run -it = %+v", r)
	}
}

func (d *docker) testLife(t *testing.T) {
	d.up(t, "one", images.BusyboxName, "sh", "-c", "trap 'exit 4' TERM; echo started; sleep 1000 & wait")
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
	d.ok(t, "stop", "one")
	if got := d.ok(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}}", "one"); got != "exited 4\n" {
		t.Errorf("after stop: %q", got)
	}
	d.ok(t, "start", "one")
	d.ok(t, "kill", "one")
	if got := d.ok(t, "wait", "one"); got != "137\n" {
		t.Errorf("wait after kill = %q", got)
	}
	d.ok(t, "restart", "--time", "0", "one")
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

func (d *docker) testPorts(t *testing.T) {
	d.up(t, "one", "-p", "8080:80", images.BusyboxName, "sh", "-c", server)
	d.awaitPage(t, 8080)
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
		"--user", "1000:100", "--pids-limit", "50", images.BusyboxName, "sleep", "1000")
	for _, tt := range []struct{ want, script string }{
		{"0000000000000001\n", "grep CapBnd /proc/self/status | cut -f2"},
		{"1000 100\n", "echo $(id -u) $(id -g)"},
		{"box\n", "hostname"},
		{"134217728\n", "cat /sys/fs/cgroup/memory.max || cat /sys/fs/cgroup/memory/memory.limit_in_bytes"},
		{"50\n", "cat /sys/fs/cgroup/pids.max || cat /sys/fs/cgroup/pids/pids.max"},
		{"docker-init\n", "cat /proc/1/comm"},
	} {
		d.wants(t, tt.want, "one", tt.script)
	}
	if r := d.d.RunDocker(t, "exec", "one", "touch", "/no"); r.Code == 0 || !strings.Contains(r.Stderr, "Read-only") {
		t.Errorf("write with --read-only = %+v", r)
	}
}

func (d *docker) testRefused(t *testing.T) {
	for _, args := range [][]string{{"--network", "host"}, {"--pid", "host"}, {"--ipc", "host"}, {"--uts", "host"}} {
		r := d.d.RunDocker(t, append(append([]string{"run", "--rm"}, args...), images.BusyboxName, "true")...)
		if r.Code == 0 || !strings.Contains(r.Stderr, "linux.namespaces") {
			t.Errorf("run %v = %+v, want an error that names linux.namespaces", args, r)
		}
	}
}
