// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/anypb"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// direct is a shim that is called without containerd between.
type direct struct {
	*stage
	id     string
	bundle string
	task   taskapi.TTRPCTaskService
}

var socketPath = regexp.MustCompile(`unix://(/[^"\s\x00]+/cloister-[0-9a-f]+)`)

// newDirect starts a shim by hand, as containerd does, for a bundle that holds busybox.
func (s *stage) newDirect(t *testing.T, id string) *direct {
	t.Helper()
	d := &direct{stage: s, id: id, bundle: filepath.Join(s.Dir, "bundles", id)}
	s.newBundle(t, d.bundle)
	cmd := s.shim(t, id, d.bundle, "start")
	out, err := cmd.Output()
	match := socketPath.FindSubmatch(out)
	if err != nil || match == nil {
		t.Fatalf("start the shim: %v: %q", err, out)
	}
	socket := s.Place.Path(string(match[1]))
	conn, err := net.Dial("unix", socket) //nolint:noctx // local
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	d.task = taskapi.NewTTRPCTaskClient(client)
	t.Cleanup(func() {
		_ = client.Close()
		for _, pid := range s.Processes(t, "containerd-shim", "-id "+id+" ", " serve ") {
			s.clean(t, "kill", "-KILL", fmt.Sprint(pid))
		}
		// containerd calls delete once the shim has hung up; one that is still dying still listens.
		bed.Await(callLimit, func() bool {
			c, err := net.Dial("unix", socket) //nolint:noctx // local
			if err == nil {
				_ = c.Close()
			}
			return err != nil
		})
		if out, err := s.shim(t, id, d.bundle, "delete").CombinedOutput(); err != nil {
			t.Errorf("delete: %v\n%s", err, out)
		}
	})
	return d
}

// shim prepares the shim's program with containerd's arguments.
func (s *stage) shim(t *testing.T, id, bundle, action string) *exec.Cmd {
	t.Helper()
	cmd := s.Place.Command(context.WithoutCancel(t.Context()), filepath.Join(testenv.Build(t), "containerd-shim-cloister-v2"),
		"-namespace", s.Namespace, "-address", s.Address, "-publish-binary", "containerd", "-id", id, "-bundle", bundle, action)
	cmd.Env = append(s.Env, "TTRPC_ADDRESS="+s.Address+".ttrpc")
	return cmd
}

// newBundle makes a bundle with a busybox that sleeps.
func (s *stage) newBundle(t *testing.T, dir string) {
	t.Helper()
	bin := filepath.Join(dir, "rootfs", "bin")
	for _, folder := range []string{bin, filepath.Join(dir, "rootfs", "proc"), filepath.Join(dir, "rootfs", "dev")} {
		if err := os.MkdirAll(folder, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(testenv.NeedBusybox(t))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(bin, "busybox"), data, 0o755); err != nil {
		t.Fatal(err)
	}
	writeSpec(t, dir, func(*specs.Spec) {})
}

// writeSpec writes the least that a container needs, changed by the test.
func writeSpec(t *testing.T, bundle string, change func(*specs.Spec)) {
	t.Helper()
	spec := &specs.Spec{
		Version: "1.1.0",
		Process: &specs.Process{Args: []string{"/bin/busybox", "sleep", "1000"}, Cwd: "/", Env: []string{"PATH=/bin"}},
		Root:    &specs.Root{Path: "rootfs"},
		Mounts:  []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace},
			{Type: specs.MountNamespace},
			{Type: specs.IPCNamespace},
			{Type: specs.UTSNamespace},
			{Type: specs.NetworkNamespace},
		}},
	}
	change(spec)
	data, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	writeConfig(t, bundle, data)
}

func writeConfig(t *testing.T, bundle string, data []byte) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
		t.Fatal(err)
	}
}

func (d *direct) create(ctx context.Context, id string) error {
	_, err := d.task.Create(ctx, &taskapi.CreateTaskRequest{ID: id, Bundle: d.bundle})
	return native(err)
}

// native gives an error that came over the wire its class back.
func native(err error) error {
	if _, wire := grpcstatus.FromError(err); err == nil || !wire {
		return err
	}
	return errgrpc.ToNative(err)
}

func execSpec(t *testing.T) *anypb.Any {
	t.Helper()
	data, err := json.Marshal(specs.Process{Args: []string{"/bin/busybox", "true"}, Cwd: "/"})
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: data}
}

// call is one of the task API's.
type call struct {
	name string
	run  func(ctx context.Context) error
}

// calls are all that take a container, with exec for those that may name another process of it.
func (d *direct) calls(t *testing.T, exec string) []call {
	id, spec := d.id, execSpec(t)
	return []call{
		{"Create", func(ctx context.Context) error { return d.create(ctx, id) }},
		{"State", func(ctx context.Context) error {
			_, err := d.task.State(ctx, &taskapi.StateRequest{ID: id, ExecID: exec})
			return err
		}},
		{"Start", func(ctx context.Context) error {
			_, err := d.task.Start(ctx, &taskapi.StartRequest{ID: id, ExecID: exec})
			return err
		}},
		{"Pause", func(ctx context.Context) error {
			_, err := d.task.Pause(ctx, &taskapi.PauseRequest{ID: id})
			return err
		}},
		{"Resume", func(ctx context.Context) error {
			_, err := d.task.Resume(ctx, &taskapi.ResumeRequest{ID: id})
			return err
		}},
		{"Exec", func(ctx context.Context) error {
			_, err := d.task.Exec(ctx, &taskapi.ExecProcessRequest{ID: id, ExecID: "e", Spec: spec})
			return err
		}},
		{"Stats", func(ctx context.Context) error {
			_, err := d.task.Stats(ctx, &taskapi.StatsRequest{ID: id})
			return err
		}},
		{"Pids", func(ctx context.Context) error { _, err := d.task.Pids(ctx, &taskapi.PidsRequest{ID: id}); return err }},
		{"Update", func(ctx context.Context) error {
			_, err := d.task.Update(ctx, &taskapi.UpdateTaskRequest{ID: id, Resources: &anypb.Any{Value: []byte("{}")}})
			return err
		}},
		{"CloseIO", func(ctx context.Context) error {
			_, err := d.task.CloseIO(ctx, &taskapi.CloseIORequest{ID: id, ExecID: exec, Stdin: true})
			return err
		}},
		{"ResizePty", func(ctx context.Context) error {
			_, err := d.task.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: id, ExecID: exec, Width: 1, Height: 1})
			return err
		}},
		{"Checkpoint", func(ctx context.Context) error {
			_, err := d.task.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: id})
			return err
		}},
		{"Kill", func(ctx context.Context) error {
			_, err := d.task.Kill(ctx, &taskapi.KillRequest{ID: id, ExecID: exec, Signal: 0})
			return err
		}},
		{"Delete", func(ctx context.Context) error {
			_, err := d.task.Delete(ctx, &taskapi.DeleteRequest{ID: id, ExecID: exec})
			return err
		}},
	}
}

// Classes of errors, as the table of illegal calls writes them.
var classes = map[string]func(error) bool{
	"ok": func(err error) bool { return err == nil }, "not found": errdefs.IsNotFound, "exists": errdefs.IsAlreadyExists,
	"precondition": errdefs.IsFailedPrecondition, "unimplemented": errdefs.IsNotImplemented,
	"any": func(error) bool { return true }, // with or without an error, but an answer
}

// want makes the calls that are named, in the order of calls, and compares the classes of their
// errors.
func (d *direct) want(t *testing.T, state, exec string, wants map[string]string) int {
	t.Helper()
	made := 0
	for _, c := range d.calls(t, exec) {
		want, ok := wants[c.name]
		if !ok {
			continue
		}
		made++
		ctx, cancel := context.WithTimeout(t.Context(), callLimit)
		err := native(c.run(ctx))
		cancel()
		if !classes[want](err) || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s %q, container %s: %v, want %s", c.name, exec, state, err, want)
		}
	}
	return made
}

// TestIllegalCalls makes every call in every state that it is not made for.
func TestIllegalCalls(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	t.Run("calls", func(t *testing.T) {
		d := s.newDirect(t, "states")
		must := func(what string, err error) {
			t.Helper()
			if err != nil {
				t.Fatalf("%s: %v", what, native(err))
			}
		}
		absent := map[string]string{"*": "not found", "Checkpoint": "unimplemented"}
		n := d.without(t, "absent", "", absent, "Create")
		must("create", d.create(t.Context(), d.id))
		n += d.want(t, "created", "", map[string]string{
			"Create": "exists", "State": "ok", "Pause": "precondition", "Resume": "precondition", "Exec": "precondition",
			"Pids": "ok", "Checkpoint": "unimplemented", "Stats": "any", "Update": "any", "CloseIO": "any",
			"ResizePty": "any", "Kill": "any",
		})
		n += d.without(t, "created", "nobody", map[string]string{"*": "not found"}, "Create", "Pause",
			"Resume", "Exec", "Stats", "Pids", "Update", "Checkpoint")
		_, err := d.task.Start(t.Context(), &taskapi.StartRequest{ID: d.id})
		must("start", err)
		n += d.want(t, "running", "", map[string]string{
			"Create": "exists", "State": "ok", "Start": "precondition", "Resume": "precondition", "Pids": "ok", "Stats": "ok",
			"Checkpoint": "unimplemented", "Delete": "precondition",
		})
		n += d.without(t, "running", "nobody", map[string]string{"*": "not found"}, "Create", "Pause",
			"Resume", "Exec", "Stats", "Pids", "Update", "Checkpoint")
		_, err = d.task.Exec(t.Context(), &taskapi.ExecProcessRequest{ID: d.id, ExecID: "e", Spec: execSpec(t)})
		must("exec", err)
		n += d.want(t, "running with an exec", "e", map[string]string{"Exec": "exists", "Kill": "precondition"})
		_, err = d.task.Delete(t.Context(), &taskapi.DeleteRequest{ID: d.id, ExecID: "e"})
		must("delete the exec", err)
		_, err = d.task.Pause(t.Context(), &taskapi.PauseRequest{ID: d.id})
		must("pause", err)
		n += d.want(t, "paused", "", map[string]string{
			"Create": "exists", "State": "ok", "Start": "precondition", "Pause": "precondition",
			"Exec": "precondition", "Pids": "ok", "Delete": "precondition",
		})
		_, err = d.task.Resume(t.Context(), &taskapi.ResumeRequest{ID: d.id})
		must("resume", err)
		_, err = d.task.Kill(t.Context(), &taskapi.KillRequest{ID: d.id, Signal: 9})
		must("kill", err)
		exit, err := d.task.Wait(t.Context(), &taskapi.WaitRequest{ID: d.id})
		must("wait", err)
		if exit.GetExitStatus() != 137 {
			t.Errorf("exit status %d, want 137", exit.GetExitStatus())
		}
		n += d.want(t, "stopped", "", map[string]string{
			"Create": "exists", "State": "ok", "Start": "precondition", "Pause": "precondition", "Resume": "precondition",
			"Exec": "precondition", "Kill": "not found", "Pids": "ok", "Stats": "any", "Update": "any",
			"CloseIO": "any", "ResizePty": "any",
		})
		_, err = d.task.Delete(t.Context(), &taskapi.DeleteRequest{ID: d.id})
		must("delete", err)
		n += d.without(t, "deleted", "", absent, "Create")
		t.Logf("%d calls", n)
	})
	s.NothingLeft(t, before)
}

// without is want for all calls but some.
func (d *direct) without(t *testing.T, state, exec string, wants map[string]string, but ...string) int {
	t.Helper()
	named := map[string]string{}
	for _, c := range d.calls(t, exec) {
		named[c.name] = wants["*"]
		if want, ok := wants[c.name]; ok {
			named[c.name] = want
		}
	}
	for _, name := range but {
		delete(named, name)
	}
	return d.want(t, state, exec, named)
}

// TestCreateRaces makes Creates that are cancelled, or are two of one id.
func TestCreateRaces(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	t.Run("races", func(t *testing.T) {
		d := s.newDirect(t, "races")
		shim := s.Look(t)
		// A cold start takes one or two seconds in an emulated guest: the first is cancelled before
		// its first step, the others in the middle of some.
		for _, after := range []time.Duration{0, 50 * time.Millisecond, 300 * time.Millisecond, time.Second} {
			ctx, cancel := context.WithTimeout(t.Context(), after)
			err := d.create(ctx, d.id)
			cancel()
			if err == nil {
				break // the machine is faster than that
			}
			if !bed.Await(callLimit, func() bool { return errdefs.IsNotFound(native(d.state(t))) }) {
				t.Fatalf("a Create that was cancelled after %s goes on", after)
			}
			s.NothingLeft(t, shim)
		}
		const many = 4
		errs := make(chan error, many)
		_, err := d.task.Delete(t.Context(), &taskapi.DeleteRequest{ID: d.id})
		if err != nil && !errdefs.IsNotFound(native(err)) {
			t.Fatal(err)
		}
		made := 0
		// The cancelled one before them may still be on its way out: until then all four are told
		// that it exists.
		bed.Await(callLimit, func() bool {
			for range many {
				go func() { errs <- d.create(t.Context(), d.id) }()
			}
			for range many {
				switch err := <-errs; {
				case err == nil:
					made++
				case !errdefs.IsAlreadyExists(err):
					t.Errorf("a second Create of one id: %v, want that it exists", err)
				}
			}
			return made > 0
		})
		if made != 1 {
			t.Errorf("%d of %d Creates of one id succeeded, want 1", made, many)
		}
		_, err = d.task.Delete(t.Context(), &taskapi.DeleteRequest{ID: d.id})
		if err != nil {
			t.Error(err)
		}
	})
	s.NothingLeft(t, before)
}

func (d *direct) state(t *testing.T) error {
	_, err := d.task.State(t.Context(), &taskapi.StateRequest{ID: d.id})
	return err
}

// TestBundles gives Create bundles and ids that are wrong.
func TestBundles(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	d := s.newDirect(t, "bundles")
	shim := s.Look(t)
	spec := func(change func(*specs.Spec)) func(*testing.T) {
		return func(t *testing.T) { writeSpec(t, d.bundle, change) }
	}
	text := func(text string) func(*testing.T) {
		return func(t *testing.T) { writeConfig(t, d.bundle, []byte(text)) }
	}
	tests := []struct {
		name  string
		spoil func(t *testing.T)
		class func(error) bool
		want  string
	}{
		{"no config.json", func(*testing.T) {}, errdefs.IsNotFound, "config.json"},
		{"a folder", func(t *testing.T) { must(t, os.Mkdir(filepath.Join(d.bundle, "config.json"), 0o700)) }, nil, "config.json"},
		{
			"endless", func(t *testing.T) { must(t, os.Symlink("/dev/zero", filepath.Join(d.bundle, "config.json"))) },
			errdefs.IsInvalidArgument, "",
		},
		{"empty", text(""), errdefs.IsInvalidArgument, ""},
		{"null", text("null"), errdefs.IsInvalidArgument, ""},
		{"half", text(`{"ociVersion": "1.1.0", "process": {"args": ["a`), errdefs.IsInvalidArgument, ""},
		{"a list", text("[]"), errdefs.IsInvalidArgument, ""},
		{"deep", text(strings.Repeat("[", 1<<20)), errdefs.IsInvalidArgument, ""},
		{"wrong type", text(`{"ociVersion": "1.1.0", "process": {"args": "true"}}`), errdefs.IsInvalidArgument, "args"},
		{"no process", spec(func(s *specs.Spec) { s.Process = nil }), errdefs.IsInvalidArgument, "process"},
		{"no args", spec(func(s *specs.Spec) { s.Process.Args = nil }), errdefs.IsInvalidArgument, "args"},
		{"relative cwd", spec(func(s *specs.Spec) { s.Process.Cwd = "x" }), errdefs.IsInvalidArgument, "cwd"},
		{"no root", spec(func(s *specs.Spec) { s.Root = nil }), errdefs.IsInvalidArgument, "root"},
		{"no rootfs", spec(func(s *specs.Spec) { s.Root.Path = "nowhere" }), errdefs.IsNotFound, "nowhere"},
		{"rootfs is a file", spec(func(s *specs.Spec) { s.Root.Path = "rootfs/bin/busybox" }), nil, "busybox"},
		{"missing hook", spec(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/nowhere/hook"}}}
		}), nil, "/nowhere/hook"},
		{"hook that fails", spec(func(s *specs.Spec) {
			s.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo no luck >&2; exit 3"}}}}
		}), nil, "no luck"},
		{"mount without source", spec(func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/v", Source: "/nowhere", Type: "bind", Options: []string{"bind"}})
		}), nil, "/nowhere"},
		{
			"unknown annotation", spec(func(s *specs.Spec) { s.Annotations = map[string]string{"io.cloister.no-such": "1"} }),
			nil, "io.cloister.no-such",
		},
		{"host pid", spec(func(s *specs.Spec) { s.Linux.Namespaces = s.Linux.Namespaces[1:] }), nil, "pid"},
		{"not there", spec(func(s *specs.Spec) { s.Process.Args = []string{"/nowhere"} }), nil, "no such file"},
		{"not executable", spec(func(s *specs.Spec) { s.Process.Args = []string{"/proc"} }), nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			must(t, os.RemoveAll(filepath.Join(d.bundle, "config.json")))
			tt.spoil(t)
			ctx, cancel := context.WithTimeout(t.Context(), callLimit)
			defer cancel()
			err := d.create(ctx, d.id)
			if err == nil {
				_, err = d.task.Start(ctx, &taskapi.StartRequest{ID: d.id})
				err = native(err)
				if err == nil {
					_, _ = d.task.Kill(ctx, &taskapi.KillRequest{ID: d.id, Signal: 9})
					_, _ = d.task.Wait(ctx, &taskapi.WaitRequest{ID: d.id})
				}
				_, _ = d.task.Delete(ctx, &taskapi.DeleteRequest{ID: d.id})
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || (tt.class != nil && !tt.class(err)) {
				t.Errorf("Create = %v, want an error with %q and the class of the case", err, tt.want)
			}
			// An error goes into logs, events and terminals: it must not repeat a whole document.
			if len(fmt.Sprint(err)) > 4<<10 {
				t.Errorf("the error has %d bytes", len(fmt.Sprint(err)))
			}
			s.NothingLeft(t, shim)
		})
	}
	writeSpec(t, d.bundle, func(*specs.Spec) {})
	// The id becomes the name of folders and cgroups. containerd takes 76 characters at most.
	for _, id := range []string{"", ".", "..", "../x", "a/b", "/etc", "a..b", "-a", "a b", "a\nb", "a\x00b", "ü", strings.Repeat("x", 77)} {
		if err := d.create(t.Context(), id); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create of id %q = %v, want that it is invalid", id, err)
		}
		if !strings.Contains(id, "\x00") {
			if out, err := s.shim(t, id, d.bundle, "start").CombinedOutput(); err == nil {
				t.Errorf("start of id %q = %q, want an error", id, out)
			}
			if out, err := s.shim(t, id, d.bundle, "delete").CombinedOutput(); err == nil {
				t.Errorf("delete of id %q = %q, want an error", id, out)
			}
		}
	}
	s.NothingLeft(t, shim)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// clean runs a program in the place when the test may be over already.
func (s *stage) clean(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := s.Place.Command(context.WithoutCancel(t.Context()), name, args...).CombinedOutput(); err != nil {
		t.Errorf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
}
