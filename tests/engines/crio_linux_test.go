// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v2"
	optionsapi "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/tests/host"
	"cloister/tests/testenv"
)

// crio acts as CRI-O does, which no distribution here has: it keeps a pod's namespaces in files and
// says in its annotations which containers are one pod's. With a handler of type oci it calls
// conmon and the command line, with one of type vm the shim.
type crio struct {
	*bed

	root string
}

func newCRIO(t *testing.T) *crio {
	t.Helper()
	c := &crio{bed: newBed(t), root: "/run/crio-runtime"}
	c.Run(t, "mkdir", "-p", "/run/ipcns", "/run/utsns", "/run/netns", "/run/crio")
	for _, kind := range []string{"ipc", "uts", "net"} {
		file := "/run/" + kind + "ns/pod"
		c.Run(t, "touch", file)
		c.Run(t, "unshare", "--"+kind+"="+file, "true")
	}
	c.before = c.look(t)
	return c
}

// pod makes the bundle of a container of the pod: the first one's kind is sandbox.
func (c *crio) pod(t *testing.T, id, kind string, command ...string) string {
	t.Helper()
	return c.bundleOf(t, id, command, func(s *specs.Spec) {
		s.Annotations = map[string]string{
			"io.kubernetes.cri-o.ContainerType": kind, "io.kubernetes.cri-o.SandboxID": "pod", "io.kubernetes.cri-o.Namespace": "default",
			"io.kubernetes.cri-o.Name": "k8s_" + id, "io.container.manager": "cri-o",
		}
		s.Hostname = "pod"
		for i, n := range s.Linux.Namespaces {
			switch n.Type {
			case specs.NetworkNamespace:
				s.Linux.Namespaces[i].Path = "/run/netns/pod"
			case specs.IPCNamespace, specs.UTSNamespace:
				s.Linux.Namespaces[i].Path = fmt.Sprintf("/run/%sns/pod", n.Type)
			default:
			}
		}
	})
}

// TestCRIO: a pod's life, as CRI-O lives it with either type of handler.
func TestCRIO(t *testing.T) {
	testenv.NeedTool(t, "conmon")
	c := newCRIO(t)
	tally(t, "crio", []part{{"OCI", c.testOCI}, {"VM", c.testVM}, {"NoInfra", c.testNoInfra}})
}

// conmon runs conmon with CRI-O's pipes and gives what it says on the first one.
func (c *crio) conmon(t *testing.T, answer any, args ...string) {
	t.Helper()
	said, sync := pipe(t)
	start, begin := pipe(t)
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(t.Context()), host.CallLimit, fmt.Errorf("not over after %s",
		host.CallLimit))
	defer cancel()
	cmd := c.Command(ctx, "conmon", append(args, "--runtime-arg", "--root="+c.root, "-r", c.program, "--socket-dir-path",
		"/run/crio", "--log-level", "info")...)
	cmd.Env = append([]string{"_OCI_SYNCPIPE=3", "_OCI_STARTPIPE=4"}, c.env...)
	cmd.ExtraFiles = []*os.File{sync, start}
	var errs strings.Builder
	cmd.Stderr = &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_ = sync.Close()
	if _, err := begin.Write([]byte{0}); err != nil {
		t.Fatal(err)
	}
	if err := json.NewDecoder(said).Decode(answer); err != nil {
		t.Fatalf("conmon %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
	err := cmd.Wait()
	if _, ok := errors.AsType[*exec.ExitError](err); err != nil && !ok { // the status is that of an exec
		t.Fatalf("conmon %s: %v\n%s", strings.Join(args, " "), err, errs.String())
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close(); _ = w.Close() })
	return r, w
}

// monitor has conmon create a container; start runs it.
func (c *crio) monitor(t *testing.T, id, bundle string) monitored {
	t.Helper()
	m := monitored{pid: filepath.Join(bundle, "pidfile"), log: filepath.Join(bundle, "log"), exit: filepath.Join(bundle, "exits", id)}
	if err := os.Mkdir(filepath.Dir(m.exit), 0o755); err != nil {
		t.Fatal(err)
	}
	var answer struct {
		PID     int    `json:"pid"`
		Message string `json:"message"`
	}
	c.conmon(t, &answer, "-b", bundle, "-c", id, "-u", id, "-n", "k8s_"+id, "--exit-dir", filepath.Dir(m.exit), "-l", m.log,
		"-P", filepath.Join(bundle, "conmon-pidfile"), "-p", m.pid, "--persist-dir", bundle)
	if answer.PID <= 0 {
		t.Fatalf("conmon's answer for %s = %+v", id, answer)
	}
	c.runtime(t, "start", id)
	return m
}

// runtime calls the command line as CRI-O itself does.
func (c *crio) runtime(t *testing.T, args ...string) string {
	t.Helper()
	return c.oci(t, append([]string{"--root=" + c.root}, args...)...)
}

// testOCI is the handler of type oci.
func (c *crio) testOCI(t *testing.T) {
	infra := c.monitor(t, "pod", c.pod(t, "pod", "sandbox", "sleep", "1000"))
	app := c.monitor(t, "app", c.pod(t, "app", "container", "sh", "-c", "trap 'exit 9' TERM; echo up; sleep 1000 & wait"))
	awaitLog(t, app, "stdout F up")
	c.oneMachine(t)
	if got := c.runtime(t, "state", "app"); !strings.Contains(got, `"running"`) || !strings.Contains(got,
		`"io.kubernetes.cri-o.SandboxID": "pod"`) {
		t.Errorf("state = %s", got)
	}
	c.testExecSync(t)
	r := c.input(t, `{"memory":{"limit":67108864}}`, c.program, "--root="+c.root, "update", "--resources", "-", "app")
	if r.code != 0 {
		t.Errorf("update = %+v", r)
	}
	c.runtime(t, "pause", "app")
	c.runtime(t, "resume", "app")
	c.runtime(t, "kill", "app", "15")
	if got := app.status(t); got != "9" {
		t.Errorf("exit status of app = %q, want 9", got)
	}
	c.runtime(t, "delete", "--force", "app")
	c.runtime(t, "kill", "pod", "9")
	if got := infra.status(t); got != "137" {
		t.Errorf("exit status of the first container = %q, want 137", got)
	}
	c.runtime(t, "delete", "--force", "pod")
	c.nothingLeft(t)
	for _, id := range []string{"app", "pod"} {
		if err := os.RemoveAll(filepath.Join(c.Dir, id)); err != nil {
			t.Error(err)
		}
	}
}

// testExecSync is a probe: conmon writes its output to a log and tells its status.
func (c *crio) testExecSync(t *testing.T) {
	t.Helper()
	process := filepath.Join(c.Dir, "process.json")
	data, err := json.Marshal(specs.Process{
		Args: []string{"sh", "-c", "cat /proc/sys/kernel/hostname; echo err >&2; exit 5"},
		Cwd:  "/", Env: []string{"PATH=/bin"},
	})
	if err == nil {
		err = os.WriteFile(process, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	log := filepath.Join(c.Dir, "exec.log")
	var answer struct {
		Code int `json:"exit_code"`
	}
	c.conmon(t, &answer, "-c", "app", "-n", "k8s_app", "-p", filepath.Join(c.Dir, "exec.pid"), "-e", "-l", log,
		"--exec-process-spec", process, "--sync")
	text, err := os.ReadFile(log)
	if err != nil || answer.Code != 5 || !strings.Contains(string(text), "stdout F pod") || !strings.Contains(string(text),
		"stderr F err") {
		t.Errorf("exec: status %d, log %q, %v, want 5, pod and err", answer.Code, text, err)
	}
	r := c.run(t, c.program, "--root="+c.root, "exec", "--process", process, "app")
	if r != (result{"pod\n", "err\n", 5}) {
		t.Errorf("exec = %+v", r)
	}
}

// shim starts the shim for a container as CRI-O does and gives what it says.
func (c *crio) shim(t *testing.T, id, bundle string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	if err := unix.Mkfifo(filepath.Join(bundle, "log"), 0o700); err != nil {
		t.Fatal(err)
	}
	log, err := os.OpenFile(filepath.Join(bundle, "log"), os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	cmd := c.Command(ctx, "sh", "-c", `cd "$1" && exec "$2" -namespace default -address "" -publish-binary /usr/bin/crio -id "$3" start`,
		"crio", bundle, filepath.Join(testenv.Build(t), "containerd-shim-cloister-v2"), id)
	cmd.Env = append([]string{"TTRPC_ADDRESS=", "GRPC_ADDRESS=", "MAX_SHIM_VERSION=2", "NAMESPACE=default"}, c.env...)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("shim start: %v: %s", err, out)
	}
	return string(out)
}

// vm is a container of a handler of type vm.
type vm struct {
	taskapi.TTRPCTaskService

	id, bundle  string
	out         *os.File // its stdout's other end
	stdout, err string
}

// connect makes a container's FIFOs and calls the address that the shim gave for it.
func (c *crio) connect(t *testing.T, id, bundle, address string) *vm {
	t.Helper()
	path, ok := strings.CutPrefix(address, "unix://")
	if !ok || strings.ContainsAny(path, "{}\n\" ") {
		t.Fatalf("the shim says %q, want the plain address", address)
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "unix", c.Path(path))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() { _ = client.Close() })
	v := &vm{TTRPCTaskService: taskapi.NewTTRPCTaskClient(client), id: id, bundle: bundle}
	v.stdout, v.out = fifo(t, filepath.Join(bundle, "stdout"))
	v.err, _ = fifo(t, filepath.Join(bundle, "stderr"))
	return v
}

// fifo makes a FIFO and opens it so that neither end waits for the other.
func fifo(t *testing.T, path string) (string, *os.File) {
	t.Helper()
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return path, f
}

// run creates and starts the container.
func (v *vm) run(t *testing.T, config string) {
	t.Helper()
	options, err := anypb.New(&optionsapi.Options{ConfigPath: config})
	if err != nil {
		t.Fatal(err)
	}
	options.TypeUrl = "runtimeoptions.v1.Options"
	if _, err := v.Create(t.Context(), &taskapi.CreateTaskRequest{
		ID: v.id, Bundle: v.bundle, Stdout: v.stdout, Stderr: v.err,
		Options: options,
	}); err != nil {
		t.Fatalf("create %s: %v", v.id, err)
	}
	if _, err := v.Start(t.Context(), &taskapi.StartRequest{ID: v.id}); err != nil {
		t.Fatalf("start %s: %v", v.id, err)
	}
}

// end kills the container, waits as CRI-O does and takes it away.
func (v *vm) end(t *testing.T, signal unix.Signal, want uint32) {
	t.Helper()
	if _, err := v.Kill(t.Context(), &taskapi.KillRequest{ID: v.id, Signal: uint32(signal), All: signal == unix.SIGKILL}); err != nil {
		t.Fatalf("kill %s: %v", v.id, err)
	}
	w, err := v.Wait(t.Context(), &taskapi.WaitRequest{ID: v.id})
	if err != nil || w.GetExitStatus() != want {
		t.Fatalf("wait for %s = %v, %v, want %d", v.id, w, err, want)
	}
	if s, err := v.State(t.Context(), &taskapi.StateRequest{ID: v.id}); err != nil || s.GetStatus() != tasktypes.Status_STOPPED ||
		s.GetExitStatus() != want {
		t.Errorf("state of %s = %v, %v", v.id, s, err)
	}
	if _, err := v.Delete(t.Context(), &taskapi.DeleteRequest{ID: v.id}); err != nil {
		t.Errorf("delete %s: %v", v.id, err)
	}
	if _, err := v.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: v.id}); err != nil {
		t.Errorf("shutdown %s: %v", v.id, err)
	}
}

// testVM is the handler of type vm: no events, Wait and State, FIFOs, and the address as plain
// text.
func (c *crio) testVM(t *testing.T) {
	config := filepath.Join(c.Dir, "cloister.toml")
	infraBundle := c.pod(t, "pod", "sandbox", "sleep", "1000")
	address := c.shim(t, "pod", infraBundle)
	infra := c.connect(t, "pod", infraBundle, address)
	infra.run(t, config)
	appBundle := c.pod(t, "app", "container", "sh", "-c", "trap 'exit 9' TERM; uname -r; sleep 1000 & wait")
	if again := c.shim(t, "app", appBundle); again != address {
		t.Errorf("the address for the pod's second container = %q, want %q", again, address)
	}
	app := c.connect(t, "app", appBundle, address)
	app.run(t, config)
	line := make([]byte, 256)
	n, err := app.out.Read(line)
	if err != nil || strings.Contains(string(line[:n]), "cloister") != (c.class != "process") {
		t.Errorf("output = %q, %v, want its class's kernel", line[:n], err)
	}
	c.oneMachine(t)
	if s, err := app.Stats(t.Context(), &taskapi.StatsRequest{ID: "app"}); err != nil ||
		!strings.HasPrefix(s.GetStats().GetTypeUrl(), "io.containerd.cgroups.") {
		t.Errorf("stats = %v, %v", s, err)
	}
	app.exec(t)
	app.end(t, unix.SIGTERM, 9)
	infra.end(t, unix.SIGKILL, 137)
	c.nothingLeft(t)
	for _, id := range []string{"app", "pod"} {
		if err := os.RemoveAll(filepath.Join(c.Dir, id)); err != nil {
			t.Error(err)
		}
	}
}

// exec runs a further process in the container, as for a probe.
func (v *vm) exec(t *testing.T) {
	t.Helper()
	data, err := json.Marshal(specs.Process{Args: []string{"sh", "-c", "echo probed; exit 5"}, Cwd: "/", Env: []string{"PATH=/bin"}})
	if err != nil {
		t.Fatal(err)
	}
	name, out := fifo(t, filepath.Join(v.bundle, "exec"))
	errs, _ := fifo(t, filepath.Join(v.bundle, "exec-err"))
	_, err = v.Exec(t.Context(), &taskapi.ExecProcessRequest{
		ID: v.id, ExecID: "probe", Stdout: name, Stderr: errs,
		Spec: &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data},
	})
	if err == nil {
		_, err = v.Start(t.Context(), &taskapi.StartRequest{ID: v.id, ExecID: "probe"})
	}
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len("probed\n"))
	if _, err := io.ReadFull(out, got); err != nil || string(got) != "probed\n" {
		t.Errorf("exec wrote %q, %v", got, err)
	}
	w, err := v.Wait(t.Context(), &taskapi.WaitRequest{ID: v.id, ExecID: "probe"})
	if err != nil || w.GetExitStatus() != 5 {
		t.Errorf("wait for the exec = %v, %v, want 5", w, err)
	}
	if _, err := v.Delete(t.Context(), &taskapi.DeleteRequest{ID: v.id, ExecID: "probe"}); err != nil {
		t.Errorf("delete of the exec: %v", err)
	}
}

// testNoInfra: with drop_infra_ctr CRI-O starts no first container; the error names the setting.
func (c *crio) testNoInfra(t *testing.T) {
	bundle := c.pod(t, "app", "container", "true")
	r := c.run(t, c.program, "--root="+c.root, "create", "--bundle", bundle, "app")
	if r.code == 0 || !strings.Contains(r.err, "drop_infra_ctr") {
		t.Errorf("create without a first container = %+v, want an error that names drop_infra_ctr", r)
	}
}

// oneMachine wants one guest for all containers of a pod, and none for plain ones.
func (b *bed) oneMachine(t *testing.T) {
	t.Helper()
	want := 1
	if b.class == "process" {
		want = 0
	}
	if n := b.machines(t); n != want {
		t.Errorf("%d guests with class %q, want %d", n, b.class, want)
	}
}

// machines counts the guests.
func (b *bed) machines(t *testing.T) int {
	t.Helper()
	n := 0
	for _, line := range b.Processes(t) {
		if name, _, _ := strings.Cut(line, " "); strings.HasPrefix(filepath.Base(name), "qemu-system") {
			n++
		}
	}
	return n
}
