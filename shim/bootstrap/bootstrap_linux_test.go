// SPDX-License-Identifier: Apache-2.0

package bootstrap_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
	"unsafe"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/tests/host"
	"cloister/tests/testenv"
)

// invocation is one run of the fake shim as containerd runs one.
type invocation struct {
	mode   string
	id     string
	bundle string
	env    []string
	stdin  []byte
}

func (v invocation) run(t *testing.T, args ...string) (stdout, stderr []byte, err error) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self,
		append([]string{"-namespace", "ns", "-address", "/run/c.sock", "-publish-binary", "containerd", "-id", v.id}, args...)...)
	cmd.Dir = v.bundle
	cmd.Env = append(os.Environ(), fakeEnv+"="+v.mode)
	cmd.Env = append(cmd.Env, v.env...)
	cmd.Stdin = bytes.NewReader(v.stdin)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err = cmd.Run()
	return out.Bytes(), errs.Bytes(), err
}

func newBundle(t *testing.T, spec string) string {
	t.Helper()
	dir := t.TempDir()
	if spec != "" {
		if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(spec), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// socketDir is a folder with a name that is short enough.
func socketDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/run", "clo-") //nolint:usetesting // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return dir
}

func params(t *testing.T, id, dir string) []byte {
	t.Helper()
	data, err := proto.Marshal(&bootapi.BootstrapParams{
		InstanceID: id, Namespace: "ns", SocketDir: &dir,
		LogLevel: bootapi.LogLevel_LOG_LEVEL_DEBUG,
	})
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// connect is containerd after start: a client on the answered address.
func connect(t *testing.T, address string) taskapi.TTRPCTaskService {
	t.Helper()
	c, err := (&net.Dialer{}).DialContext(t.Context(), "unix", strings.TrimPrefix(address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(c)
	t.Cleanup(func() { client.Close() })
	return taskapi.NewTTRPCTaskClient(client)
}

// gone waits until a file is no more.
func gone(t *testing.T, path string) {
	t.Helper()
	if left := host.Await(host.Patience, func() string {
		if _, err := os.Lstat(path); errors.Is(err, os.ErrNotExist) {
			return ""
		}
		return path
	}); left != "" {
		t.Fatalf("%s is still there", left)
	}
}

func TestStartAndShutdown(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	bundle, dir := newBundle(t, "{}"), socketDir(t)
	out, errs, err := invocation{mode: "serve", id: "a", bundle: bundle, stdin: params(t, "a", dir)}.run(t, "start")
	if err != nil || len(errs) > 0 {
		t.Fatalf("start = %v, stderr %q", err, errs)
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	if result.Version != 3 || result.Protocol != "ttrpc" || !strings.HasPrefix(result.Address, "unix://"+dir+"/") {
		t.Errorf("result = %v, want version 3 over ttrpc in %s", &result, dir)
	}
	var caps types.MountCapabilities
	if found, err := result.FindExtension(&caps); !found || err != nil || len(caps.GetTypes()) != 2 {
		t.Errorf("mount capabilities = %v, %v, %v, want erofs and ext4", &caps, found, err)
	}
	if address, err := os.ReadFile(filepath.Join(bundle, "address")); string(address) != result.Address {
		t.Errorf("file address = %q, %v, want %q", address, err, result.Address)
	}
	client := connect(t, result.Address)
	resp, err := client.Connect(t.Context(), &taskapi.ConnectRequest{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	checkDaemon(t, int(resp.GetShimPid()))
	if _, err := client.Create(t.Context(), &taskapi.CreateTaskRequest{ID: "panic"}); status.Code(err) != codes.Internal {
		t.Errorf("Create that panics = %v, want code Internal", err)
	}
	if _, err := client.State(t.Context(), &taskapi.StateRequest{ID: "b"}); status.Code(err) != codes.NotFound {
		t.Errorf("State of nothing = %v, want code NotFound", err)
	}
	if _, err := client.Shutdown(t.Context(), &taskapi.ShutdownRequest{ID: "a"}); err != nil {
		t.Errorf("Shutdown = %v, want an answer before the end", err)
	}
	gone(t, strings.TrimPrefix(result.Address, "unix://"))
	gone(t, "/proc/"+itoa(int(resp.GetShimPid())))
}

// checkDaemon looks at a daemon from outside.
func checkDaemon(t *testing.T, pid int) {
	t.Helper()
	ours, _ := os.Readlink("/proc/self/ns/mnt")
	theirs, err := os.Readlink("/proc/" + itoa(pid) + "/ns/mnt")
	if err != nil || ours == theirs {
		t.Errorf("mount namespace of the daemon = %q, %v, want one of its own", theirs, err)
	}
	mounts, err := os.ReadFile("/proc/" + itoa(pid) + "/mountinfo")
	if err != nil || bytes.Contains(mounts, []byte(" shared:")) {
		t.Errorf("the daemon has shared mounts (%v): what it mounts would reach the host", err)
	}
	if sid, err := unix.Getsid(pid); err != nil || sid != pid {
		t.Errorf("session of the daemon = %d, %v, want its own", sid, err)
	}
	if cwd, err := os.Readlink("/proc/" + itoa(pid) + "/cwd"); err != nil || cwd != "/" {
		t.Errorf("folder of the daemon = %q, %v, want /", cwd, err)
	}
	if got, want := oomScore(t, pid), min(oomScore(t, os.Getpid())+1, 1000); got != want {
		t.Errorf("oom_score_adj of the daemon = %d, want %d", got, want)
	}
	for _, fd := range []string{"0", "1"} {
		if file, err := os.Readlink("/proc/" + itoa(pid) + "/fd/" + fd); err != nil || file != "/dev/null" {
			t.Errorf("descriptor %s of the daemon = %q, %v: start's would keep containerd waiting", fd, file, err)
		}
	}
}

func oomScore(t *testing.T, pid int) int {
	t.Helper()
	data, err := os.ReadFile("/proc/" + itoa(pid) + "/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	score, err := strconv.Atoi(strings.TrimSpace(string(data)))
	if err != nil {
		t.Fatal(err)
	}
	return score
}

func itoa(n int) string { return strconv.Itoa(n) }

// TestCoreScheduling asks for it: the daemon has a cookie, or the kernel has no such thing and
// start says so.
func TestCoreScheduling(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	v := invocation{mode: "serve", id: "a", bundle: newBundle(t, ""), env: []string{"SCHED_CORE=1"}, stdin: params(t, "a", socketDir(t))}
	out, errs, err := v.run(t, "start")
	if err != nil {
		if !strings.Contains(string(errs), "core scheduling was asked for by SCHED_CORE") {
			t.Errorf("start = %v, %q, want the reason", err, errs)
		}
		return
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	client := connect(t, result.Address)
	resp, err := client.Connect(t.Context(), &taskapi.ConnectRequest{})
	if err != nil {
		t.Fatal(err)
	}
	var cookie uint64
	if err := unix.Prctl(unix.PR_SCHED_CORE, unix.PR_SCHED_CORE_GET, uintptr(resp.GetShimPid()),
		unix.PR_SCHED_CORE_SCOPE_THREAD, uintptr(unsafe.Pointer(&cookie))); err != nil || cookie == 0 {
		t.Errorf("cookie of the daemon = %d, %v, want one", cookie, err)
	}
	if _, err := client.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil {
		t.Error(err)
	}
	gone(t, strings.TrimPrefix(result.Address, "unix://"))
}

// TestStartGroup has two tasks of one pod started at once: one daemon, one address.
func TestStartGroup(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	const spec = `{"annotations":{"io.kubernetes.cri.sandbox-id":"pod"}}`
	dir := socketDir(t)
	ids := []string{"a", "b", "c", "d"}
	type result struct {
		out []byte
		err error
	}
	results := make(chan result)
	for _, id := range ids {
		v := invocation{mode: "serve", id: id, bundle: newBundle(t, spec), stdin: params(t, id, dir)}
		go func() {
			out, errs, err := v.run(t, "start")
			results <- result{out, errors.Join(err, errorOf(errs))}
		}()
	}
	addresses := map[string]bool{}
	for range ids {
		r := <-results
		var answer bootapi.BootstrapResult
		if err := errors.Join(r.err, proto.Unmarshal(r.out, &answer)); err != nil {
			t.Fatal(err)
		}
		addresses[answer.Address] = true
	}
	if len(addresses) != 1 {
		t.Fatalf("addresses = %v, want one", addresses)
	}
	for address := range addresses {
		if _, err := connect(t, address).Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil {
			t.Error(err)
		}
		gone(t, strings.TrimPrefix(address, "unix://"))
	}
}

func errorOf(text []byte) error {
	if len(text) == 0 {
		return nil
	}
	return errors.New(string(text))
}

// TestStartFails has a daemon that cannot serve: start says why, and leaves no socket.
func TestStartFails(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	for _, tt := range []struct{ mode, want string }{
		{"refuse", "kvm: /dev/kvm is not readable"},
		{"crash", "ended before it was ready"},
	} {
		t.Run(tt.mode, func(t *testing.T) {
			t.Parallel()
			dir := socketDir(t)
			out, errs, err := invocation{mode: tt.mode, id: "a", bundle: newBundle(t, ""), stdin: params(t, "a", dir)}.run(t, "start")
			if err == nil || len(out) > 0 || !strings.Contains(string(errs), tt.want) {
				t.Errorf("start = %q, %q, %v, want %q", out, errs, err, tt.want)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("left in the socket folder: %v, %v", left, err)
			}
		})
	}
}

func TestStartRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 60)
	for _, tt := range []struct {
		name string
		v    invocation
		want string
	}{
		{"id with a slash", invocation{id: "a/b"}, "-id"},
		{"id of dots", invocation{id: ".."}, "-id"},
		{"malformed spec", invocation{id: "a", bundle: newBundle(t, "{")}, "config.json"},
		{"socket folder too long", invocation{id: "a", stdin: params(t, "a", "/run/"+long)}, "at most 42 bytes"},
		{"endless stdin", invocation{id: "a", stdin: make([]byte, 5<<20)}, "more than"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.v.mode = "serve"
			if tt.v.bundle == "" {
				tt.v.bundle = newBundle(t, "")
			}
			_, errs, err := tt.v.run(t, "start")
			if err == nil || !strings.Contains(string(errs), tt.want) {
				t.Errorf("start = %v, %q, want %q", err, errs, tt.want)
			}
		})
	}
}

// TestSignals ends a daemon as the host's shutdown does, and checks that a broken pipe and a
// terminal's end do not.
func TestSignals(t *testing.T) {
	testenv.NeedRoot(t)
	t.Parallel()
	bundle := newBundle(t, "")
	fifo := filepath.Join(bundle, "log")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	logs, err := os.OpenFile(fifo, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer logs.Close()
	out, errs, err := invocation{mode: "serve", id: "a", bundle: bundle, stdin: params(t, "a", socketDir(t))}.run(t, "start")
	if err != nil {
		t.Fatal(err, string(errs))
	}
	var result bootapi.BootstrapResult
	if err := proto.Unmarshal(out, &result); err != nil {
		t.Fatal(err)
	}
	client := connect(t, result.Address)
	resp, err := client.Connect(t.Context(), &taskapi.ConnectRequest{ID: "a"})
	if err != nil {
		t.Fatal(err)
	}
	pid := int(resp.GetShimPid())
	// The log has no reader but this test, which reads nothing yet: the daemon fills it and goes
	// on.
	for range 1000 {
		if _, err := client.Connect(t.Context(), &taskapi.ConnectRequest{ID: "a"}); err != nil {
			t.Fatal(err)
		}
	}
	for _, s := range []unix.Signal{unix.SIGPIPE, unix.SIGHUP, unix.SIGUSR1, unix.SIGTERM} {
		if err := unix.Kill(pid, s); err != nil {
			t.Fatal(err)
		}
	}
	gone(t, strings.TrimPrefix(result.Address, "unix://"))
	gone(t, "/proc/"+itoa(pid))
	if err := logs.SetReadDeadline(time.Now().Add(time.Second)); err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(logs)
	if !bytes.Contains(text, []byte("method=/containerd.task.v3.Task/Connect")) {
		t.Errorf("log of %d bytes has no calls", len(text))
	}
}

func TestDelete(t *testing.T) {
	t.Parallel()
	bundle, dir, tmp := newBundle(t, ""), socketDir(t), t.TempDir()
	// A daemon that was killed leaves its socket's file.
	stale := filepath.Join(dir, "stale")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: stale, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := errors.Join(os.WriteFile(filepath.Join(bundle, "address"), []byte("unix://"+stale), 0o600)); err != nil {
		t.Fatal(err)
	}
	v := invocation{mode: "serve", id: "a", bundle: bundle, env: []string{"TMPDIR=" + tmp}}
	for _, alive := range []bool{true, false, false} { // twice: delete may be called again
		if !alive {
			l.Close()
		}
		out, errs, err := v.run(t, "-bundle", bundle, "delete")
		if err != nil || len(errs) > 0 {
			t.Fatalf("delete = %v, %q", err, errs)
		}
		var resp taskapi.DeleteResponse
		if err := proto.Unmarshal(out, &resp); err != nil || resp.GetExitStatus() != 137 || resp.GetPid() != 42 {
			t.Errorf("delete answered %v, %v", &resp, err)
		}
		if _, err := os.Lstat(stale); (err == nil) != alive {
			t.Errorf("socket of a daemon (alive: %v): %v", alive, err)
		}
	}
	if got, err := os.ReadFile(filepath.Join(tmp, "deleted-a")); string(got) != bundle {
		t.Errorf("Delete got bundle %q, %v, want %q", got, err, bundle)
	}
}

func TestInfo(t *testing.T) {
	t.Parallel()
	options, err := proto.Marshal(&anypb.Any{TypeUrl: "x/y"})
	if err != nil {
		t.Fatal(err)
	}
	for _, stdin := range [][]byte{nil, options} {
		out, errs, err := invocation{mode: "serve", id: "a", bundle: t.TempDir(), stdin: stdin}.run(t, "-info")
		var info types.RuntimeInfo
		if err := errors.Join(err, errorOf(errs), proto.Unmarshal(out, &info)); err != nil {
			t.Fatal(err)
		}
		if info.GetName() != "io.containerd.fake.v2" || info.GetVersion().GetVersion() != "1.2.3" ||
			(info.GetAnnotations()["options"] == "x/y") != (stdin != nil) {
			t.Errorf("-info = %v", &info)
		}
		if got, want := info.GetAnnotations()["containerd.io/runtime-allow-mounts"], "erofs,ext4,mkfs/*"; got != want {
			t.Errorf("-info allows mounts %q, want %q", got, want)
		}
	}
	out, _, err := invocation{mode: "serve", id: "a", bundle: t.TempDir()}.run(t, "-v")
	if err != nil || !strings.Contains(string(out), "1.2.3") {
		t.Errorf("-v = %q, %v", out, err)
	}
}
