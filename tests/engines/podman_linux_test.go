// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"cmp"
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/leaks"
	"cloister/tests/testenv"
)

// podman is Podman with a store of its own, and the busybox image in it.
type podman struct {
	*bed

	flags []string
}

func newPodman(t *testing.T, network, class string) *podman {
	t.Helper()
	testenv.NeedTool(t, "podman")
	b := newBed(t)
	b.keeps = []leaks.Kind{leaks.Mount, leaks.MountNS, leaks.Link, leaks.NetNS} // its store's mount and its bridge
	config := filepath.Join(b.Dir, "containers.conf")
	text := fmt.Sprintf(`[engine]
runtime = "cloister"
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime_supports_json = ["cloister", "cloister-oci", "cloister-process", "cloister-oci-process"]
runtime_supports_kvm = ["cloister", "cloister-oci"]
[engine.runtimes]
cloister = [%q]
cloister-process = [%q]
[containers]
default_ulimits = ["nofile=1024:1024", "nproc=4096:4096"]
[network]
network_backend = %q
cni_plugin_dirs = ["/usr/lib/cni"]
network_config_dir = %q
`, b.program, b.program+"-process", network, filepath.Join(b.Dir, "networks"))
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	b.env = append(b.env, "CONTAINERS_CONF="+config, "TMPDIR="+b.Dir)
	b.class = class
	b.WriteClass(t, class)
	p := &podman{bed: b, flags: []string{
		"--root", filepath.Join(b.Dir, "storage"), "--runroot", "/run/podman", "--tmpdir", "/run/podman/tmp", "--storage-driver", "overlay",
		"--runtime-flag", "config=" + filepath.Join(b.Dir, "cloister.toml"), // conmon passes no environment
	}}
	busybox, err := images.Busybox(context.Background(), testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(b.Dir, "busybox.tar")
	if err := images.Save(file, map[string]v1.Image{images.BusyboxName: busybox}); err != nil {
		t.Fatal(err)
	}
	p.ok(t, "load", "-i", file)
	return p
}

// podman runs Podman to its end.
func (p *podman) podman(t *testing.T, args ...string) result {
	t.Helper()
	return p.run(t, "podman", append(p.flags, args...)...)
}

// ok is podman that has to succeed.
func (p *podman) ok(t *testing.T, args ...string) string {
	t.Helper()
	return p.must(t, "podman", append(p.flags, args...)...)
}

// up starts the container one, which is taken away when the test ends.
func (p *podman) up(t *testing.T, args ...string) {
	t.Helper()
	t.Cleanup(func() { p.ok(t, "rm", "--force", "--time", "0", "--ignore", "one") })
	p.ok(t, append([]string{"run", "--detach", "--name", "one"}, args...)...)
}

// wants compares what a command in a container writes.
func (p *podman) wants(t *testing.T, want, name string, command ...string) {
	t.Helper()
	if got := p.ok(t, append([]string{"exec", name}, command...)...); got != want {
		t.Errorf("%s in %s = %q, want %q", strings.Join(command, " "), name, got, want)
	}
}

// TestPodman: what users of Podman do, each container in a guest of its own and each pod in one.
func TestPodman(t *testing.T) {
	p := newPodman(t, "netavark", "vm")
	tally(t, "podman", []part{
		{"Run", p.testRun},
		{"Terminal", p.testTerminal},
		{"Lifecycle", p.testLifecycle},
		{"Exec", p.testExec},
		{"Copy", p.testCopy},
		{"Ports", p.testPorts},
		{"Volumes", p.testVolumes},
		{"Limits", p.testLimits},
		{"Look", p.testLook},
		{"Pod", p.testPod},
		{"Join", p.testJoin},
		{"Names", p.testNames},
		{"Kube", p.testKube},
		{"Notify", p.testNotify},
		{"Split", p.testSplit},
		{"Refused", p.testRefused},
	})
	tally(t, "buildah", []part{{"Build", p.testBuild}})
}

// TestPodmanCNI: the older of Podman's two ways to make a network.
func TestPodmanCNI(t *testing.T) {
	testenv.NeedTool(t, "iptables")
	p := newPodman(t, "cni", cmp.Or(os.Getenv("CLOISTER_TEST_CLASS"), "vm"))
	tally(t, "podmancni", []part{{"Ports", p.testPorts}, {"Pod", p.testPod}})
}

// testKube takes a pod through its description for Kubernetes.
func (p *podman) testKube(t *testing.T) {
	file := filepath.Join(p.Dir, "pod.yaml")
	t.Cleanup(func() { p.ok(t, "pod", "rm", "--force", "--ignore", "--time", "0", "kube") })
	p.ok(t, "pod", "create", "--name", "kube", "-p", "8083:80")
	p.ok(t, "run", "--detach", "--pod", "kube", "--name", "kube-web", "--memory", "64m", images.BusyboxName, "sh", "-c", server)
	p.ok(t, "generate", "kube", "--filename", file, "kube")
	p.ok(t, "pod", "rm", "--force", "--time", "0", "kube")
	p.ok(t, "play", "kube", file)
	p.awaitPage(t, 8083)
	p.oneMachine(t)
	p.ok(t, "play", "kube", "--down", file)
}

// testNotify is what a unit that quadlet writes does: Podman tells systemd that the container runs,
// and which process of the host is to be watched.
func (p *podman) testNotify(t *testing.T) {
	socket := filepath.Join(p.Dir, "notify")
	l, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Cleanup(func() { p.ok(t, "rm", "--force", "--time", "0", "--ignore", "unit") })
	p.must(t, "env", append([]string{"NOTIFY_SOCKET=" + socket, "podman"}, append(p.flags,
		"run", "--name=unit", "--cidfile="+filepath.Join(p.Dir,
			"unit.cid"), "--replace", "--rm", "--detach", "--log-driver=k8s-file", "--sdnotify=conmon",
		images.BusyboxName, "sleep", "1000")...)...)
	if err := l.SetReadDeadline(time.Now().Add(host.Patience)); err != nil {
		t.Fatal(err)
	}
	said := make([]byte, 4096)
	n, err := l.Read(said)
	text := string(said[:n])
	if err != nil || !strings.Contains(text, "READY=1") || !strings.Contains(text, "MAINPID="+strings.TrimSpace(p.ok(t, "inspect",
		"-f", "{{.State.ConmonPid}}", "unit"))) {
		t.Errorf("sent systemd %q, %v, want READY=1 and conmon's pid", text, err)
	}
	if got := p.ok(t, "stop", "--time", "0", "unit"); !strings.Contains(got, "unit") {
		t.Errorf("stop = %q", got)
	}
}

func (p *podman) testRun(t *testing.T) {
	r := p.podman(t, "run", "--rm", images.BusyboxName, "sh", "-c", "uname -r; echo err >&2; exit 3")
	if strings.Contains(r.out, "cloister") != (p.class == "vm") || !strings.Contains(r.err, "err") || r.code != 3 {
		t.Errorf("run with class %s = %+v, want its kernel, err and 3", p.class, r)
	}
	if r := p.podman(t, "run", "--rm", images.BusyboxName, "nothing"); r.code != 127 {
		t.Errorf("run of a program that is not there = %+v, want 127", r)
	}
	if r := p.input(t, "typed\n", "podman", append(p.flags, "run", "--rm", "-i", images.BusyboxName, "cat")...); r.out != "typed\n" {
		t.Errorf("run -i cat = %+v", r)
	}
}

func (p *podman) testTerminal(t *testing.T) {
	p.up(t, images.BusyboxName, "sleep", "1000")
	for _, verb := range [][]string{{"run", "--rm", "-it", images.BusyboxName}, {"exec", "-it", "one"}} {
		r := p.onTerminal(t, "podman", slices.Concat(p.flags, verb, []string{
			"sh", "-c", "test -t 0 && test -t 1 && echo terminal; read line; echo got:$line; exit 6",
		})...)
		if !strings.Contains(r.out, "terminal\r\n") || !strings.Contains(r.out, "got:word\r\n") || r.code != 6 {
			t.Errorf("%s = %q, exit %d", strings.Join(verb, " "), r.out, r.code)
		}
	}
}

func (p *podman) testLifecycle(t *testing.T) {
	p.up(t, images.BusyboxName, "sh", "-c", "trap 'exit 4' TERM; echo started; sleep 1000 & wait")
	if late := host.Await(host.Patience, func() string {
		if got := p.ok(t, "logs", "one"); got != "started\n" {
			return fmt.Sprintf("logs = %q", got)
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
	p.ok(t, "pause", "one")
	p.ok(t, "unpause", "one")
	p.ok(t, "stop", "--time", host.Grace, "one")
	if got := p.ok(t, "inspect", "-f", "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}", "one"); got != "exited 4 0\n" {
		t.Errorf("after stop: %q", got)
	}
	p.ok(t, "start", "one")
	p.ok(t, "kill", "one")
	if got := p.ok(t, "wait", "one"); got != "137\n" {
		t.Errorf("wait after kill = %q", got)
	}
	p.ok(t, "rm", "one")
}

func (p *podman) testExec(t *testing.T) {
	p.up(t, images.BusyboxName, "sleep", "1000")
	if r := p.podman(t, "exec", "one", "sh", "-c", "echo out; echo err >&2; exit 5"); r != (result{"out\n", "err\n", 5}) {
		t.Errorf("exec = %+v", r)
	}
	p.ok(t, "exec", "--detach", "one", "touch", "/made")
	if late := host.Await(host.Patience, func() string {
		if r := p.podman(t, "exec", "one", "test", "-e", "/made"); r.code != 0 {
			return "exec -d has not made its file"
		}
		return ""
	}); late != "" {
		t.Fatal(late)
	}
}

func (p *podman) testCopy(t *testing.T) {
	file := filepath.Join(p.Dir, "file")
	if err := os.WriteFile(file, []byte("copied\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	p.up(t, "-v", "data:/data", images.BusyboxName, "sh", "-c", "echo made >/made; sleep 1000")
	t.Cleanup(func() { p.ok(t, "volume", "rm", "--force", "data") })
	p.ok(t, "cp", file, "one:/tmp/copied-by-podman")
	p.ok(t, "cp", file, "one:/data/file")
	p.wants(t, "copied\n", "one", "cat", "/tmp/copied-by-podman")
	p.wants(t, "copied\n", "one", "cat", "/data/file")
	if _, err := os.Stat(p.Path("/tmp/copied-by-podman")); err == nil {
		t.Error("the host has the file that was copied into the container")
	}
	p.wants(t, "made\n", "one", "sh", "-c", "until [ -s /made ]; do sleep 0.1; done; cat /made")
	p.ok(t, "cp", "one:/made", file)
	if data, err := os.ReadFile(file); err != nil || string(data) != "made\n" {
		t.Errorf("cp out of the container = %q, %v", data, err)
	}
}

// server serves a page at port 80.
const server = "mkdir /www; echo page >/www/index.html; httpd -f -p 80 -h /www"

// awaitPage waits until a server is reached from the host.
func (b *bed) awaitPage(t *testing.T, port int) {
	t.Helper()
	if late := host.Await(host.Patience, func() string {
		r := b.run(t, "busybox", "wget", "-qO-", "http://127.0.0.1:"+strconv.Itoa(port)+"/")
		if r.out != "page\n" {
			return fmt.Sprintf("port %d: %+v", port, r)
		}
		return ""
	}); late != "" {
		t.Error(late)
	}
}

func (p *podman) testPorts(t *testing.T) {
	p.up(t, "-p", "8080:80", images.BusyboxName, "sh", "-c", server)
	p.awaitPage(t, 8080)
}

func (p *podman) testVolumes(t *testing.T) {
	for _, mode := range []string{"z", "Z"} {
		folder := filepath.Join(p.Dir, "volume-"+mode)
		if err := os.Mkdir(folder, 0o755); err != nil {
			t.Fatal(err)
		}
		p.ok(t, "run", "--rm", "-v", folder+":/v:"+mode, images.BusyboxName, "sh", "-c", "echo "+mode+" >/v/f")
		if data, err := os.ReadFile(filepath.Join(folder, "f")); err != nil || string(data) != mode+"\n" {
			t.Errorf("volume :%s = %q, %v", mode, data, err)
		}
	}
}

func (p *podman) testLimits(t *testing.T) {
	p.up(t, "--cap-drop", "all", "--cap-add", "chown", "--read-only", "--memory", "128m",
		"--health-cmd", "test -d /proc", "--health-interval", "disable", images.BusyboxName, "sleep", "1000")
	p.wants(t, "CapEff:\t0000000000000001\n", "one", "grep", "CapEff", "/proc/1/status")
	if r := p.podman(t, "exec", "one", "touch", "/no"); r.code == 0 || !strings.Contains(r.err, "Read-only") {
		t.Errorf("write with --read-only = %+v", r)
	}
	p.ok(t, "healthcheck", "run", "one")
}

func (p *podman) testLook(t *testing.T) {
	p.up(t, images.BusyboxName, "sleep", "1000")
	if got := p.ok(t, "top", "one"); strings.Count(got, "\n") != 2 || !strings.Contains(got, "cloister-oci proxy") {
		t.Errorf("top = %q, want only the proxy", got)
	}
	if got := p.ok(t, "top", "one", "-o", "pid,args"); !strings.Contains(got, "sleep 1000") {
		t.Errorf("top with ps's arguments = %q, want the guest's processes", got)
	}
	got := p.ok(t, "stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}}", "one")
	if fields := strings.Fields(got); len(fields) != 2 || fields[0] != "one" || fields[1] == "0" {
		t.Errorf("stats = %q", got)
	}
}

func (p *podman) testPod(t *testing.T) {
	t.Cleanup(func() { p.ok(t, "pod", "rm", "--force", "--ignore", "--time", "0", "pod") })
	p.ok(t, "pod", "create", "--name", "pod", "-p", "8081:80")
	p.ok(t, "run", "--detach", "--pod", "pod", "--name", "web", images.BusyboxName, "sh", "-c", server)
	p.ok(t, "run", "--detach", "--pod", "pod", "--name", "beside", images.BusyboxName, "sleep", "1000")
	p.awaitPage(t, 8081)
	p.wants(t, "page\n", "beside", "wget", "-qO-", "http://127.0.0.1/")
	p.oneMachine(t)
	r := p.podman(t, "--runtime", "cloister-process", "run", "--rm", "--pod", "pod", images.BusyboxName, "true")
	if r.code == 0 || !strings.Contains(r.err, "use the same runtime for all containers of a pod") {
		t.Errorf("run of the other name in the pod = %+v, want an error with the remedy", r)
	}
	p.ok(t, "pod", "stop", "--time", "0", "pod")
}

// testNames: each of the program's two names has a class of its own where the configuration names
// none, and Podman calls it by the name that install writes or by its path.
func (p *podman) testNames(t *testing.T) {
	if err := os.Remove(filepath.Join(p.Dir, "config.d/class.toml")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.WriteClass(t, p.class) })
	for _, tt := range []struct {
		runtime string
		guest   bool
	}{{"cloister-process", false}, {p.program + "-process", false}, {p.program, true}} {
		got := p.ok(t, "--runtime", tt.runtime, "run", "--rm", images.BusyboxName, "uname", "-r")
		if strings.Contains(got, "cloister") != tt.guest {
			t.Errorf("kernel with runtime %s = %q, want a guest's: %t", tt.runtime, got, tt.guest)
		}
	}
}

func (p *podman) testJoin(t *testing.T) {
	p.up(t, images.BusyboxName, "sh", "-c", server)
	p.awaitInside(t)
	if n := p.machines(t); n != 1 {
		t.Errorf("%d guests, want 1", n)
	}
}

// awaitInside waits until a container that shares the network of one sees its server.
func (p *podman) awaitInside(t *testing.T) {
	t.Helper()
	if late := host.Await(host.Patience, func() string {
		r := p.podman(t, "run", "--rm", "--network", "container:one", images.BusyboxName, "wget", "-qO-", "http://127.0.0.1/")
		if r.out != "page\n" {
			return fmt.Sprintf("%+v", r)
		}
		return ""
	}); late != "" {
		t.Error(late)
	}
}

// testBuild has buildah run the steps of a Dockerfile, each in a container of its own.
func (p *podman) testBuild(t *testing.T) {
	testenv.NeedTool(t, "buildah")
	folder := filepath.Join(p.Dir, "build")
	if err := os.Mkdir(folder, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "FROM " + images.BusyboxName + "\nRUN uname -r >/kernel\nRUN cat /kernel && echo two\n"
	if err := os.WriteFile(filepath.Join(folder, "Dockerfile"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out := p.must(t, "buildah", "--root", filepath.Join(p.Dir, "storage"), "--runroot", "/run/podman", "--storage-driver", "overlay",
		"bud", "--isolation", "oci", "--runtime", p.program, "--runtime-flag", "config="+filepath.Join(p.Dir, "cloister.toml"),
		"--network", "none", "-t", "built", folder)
	if strings.Contains(out, "cloister\ntwo\n") != (p.class == "vm") || !strings.Contains(out, "\ntwo\n") {
		t.Errorf("buildah bud with class %s = %q, want its kernel and two", p.class, out)
	}
}

func (p *podman) testRefused(t *testing.T) {
	for _, args := range [][]string{{"--network", "host"}, {"--pid", "host"}, {"--ipc", "host"}} {
		r := p.podman(t, append(append([]string{"run", "--rm"}, args...), images.BusyboxName, "true")...)
		if r.code == 0 || !strings.Contains(r.err, "linux.namespaces") {
			t.Errorf("run %v = %+v, want an error that names linux.namespaces", args, r)
		}
	}
}
