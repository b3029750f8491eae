// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	metrics "github.com/containerd/cgroups/v3/cgroup2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	optionsapi "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cloister/runtime"
	"cloister/runtime/stdio"
	"cloister/shim/interceptor"
)

var died = time.Unix(1_700_000_000, 0)

// fake keeps the last call and answers as its fields say.
type fake struct {
	call  any
	err   error
	state runtime.State
	busy  bool
}

type call struct {
	Name string
	Args []any
}

func (f *fake) note(name string, args ...any) error {
	f.call = call{name, args}
	return f.err
}

func (f *fake) Create(_ context.Context, req runtime.CreateRequest) (uint32, error) {
	return 7, f.note("create", req)
}

func (f *fake) Start(_ context.Context, ref runtime.Ref) (uint32, error) {
	return 7, f.note("start", ref)
}
func (f *fake) Exec(_ context.Context, req runtime.ExecRequest) error { return f.note("exec", req) }
func (f *fake) Delete(_ context.Context, ref runtime.Ref) (uint32, runtime.Exited, error) {
	return 7, runtime.Exited{Status: 3, At: died}, f.note("delete", ref)
}

func (f *fake) State(ref runtime.Ref) (runtime.Status, error) {
	return runtime.Status{Bundle: "/b", Pid: 7, State: f.state, Exited: runtime.Exited{Status: 3, At: died}}, f.note("state", ref)
}
func (f *fake) Pids(id string) (uint32, error) { return 7, f.note("pids", id) }
func (f *fake) Wait(_ context.Context, ref runtime.Ref) (runtime.Exited, error) {
	return runtime.Exited{Status: 3, At: died}, f.note("wait", ref)
}
func (f *fake) Pause(_ context.Context, id string) error  { return f.note("pause", id) }
func (f *fake) Resume(_ context.Context, id string) error { return f.note("resume", id) }
func (f *fake) Kill(_ context.Context, ref runtime.Ref, signal uint32, all bool) error {
	return f.note("kill", ref, signal, all)
}

func (f *fake) ResizePty(_ context.Context, ref runtime.Ref, width, height uint32) error {
	return f.note("resize", ref, width, height)
}

func (f *fake) CloseStdin(_ context.Context, ref runtime.Ref) error {
	return f.note("close stdin", ref)
}

func (f *fake) Update(_ context.Context, id string, resources []byte) error {
	return f.note("update", id, string(resources))
}

func (f *fake) Stats(_ context.Context, id string) (*metrics.Metrics, error) {
	return &metrics.Metrics{}, f.note("stats", id)
}
func (f *fake) Empty() bool { return !f.busy }

// request is one request with the call of the runtime that it becomes and its answer.
type request struct {
	name   string
	send   func(context.Context, *Service) (proto.Message, error)
	want   call
	answer proto.Message // nil: empty
}

// ask makes a request of a method's.
func ask[Q any, A proto.Message](method func(*Service, context.Context, Q) (A, error),
	q Q,
) func(context.Context, *Service) (proto.Message, error) {
	return func(ctx context.Context, s *Service) (proto.Message, error) { return method(s, ctx, q) }
}

func requests() []request {
	c, e := runtime.Ref{Container: "c"}, runtime.Ref{Container: "c", Exec: "e"}
	io := stdio.Config{Stdin: "/i", Stdout: "/o", Stderr: "/e", Terminal: true, ContainerID: "c", Namespace: "ns"}
	at := timestamppb.New(died)
	return []request{
		{"create", ask((*Service).Create, &taskapi.CreateTaskRequest{
			ID: "c", Bundle: "/b", Stdin: "/i", Stdout: "/o", Stderr: "/e", Terminal: true,
			Rootfs: []*types.Mount{{Type: "bind", Source: "/s", Target: "t", Options: []string{"ro"}}},
		}), call{"create", []any{runtime.CreateRequest{
			ID: "c", Bundle: "/b", Stdio: io, Rootfs: []runtime.Mount{{Type: "bind", Source: "/s", Target: "t", Options: []string{"ro"}}},
		}}}, &taskapi.CreateTaskResponse{Pid: 7}},
		{
			"start", ask((*Service).Start, &taskapi.StartRequest{ID: "c", ExecID: "e"}),
			call{"start", []any{e}},
			&taskapi.StartResponse{Pid: 7},
		},
		{"exec", ask((*Service).Exec, &taskapi.ExecProcessRequest{
			ID: "c", ExecID: "e", Spec: &anypb.Any{Value: []byte("{}")}, Stdin: "/i", Stdout: "/o", Stderr: "/e", Terminal: true,
		}), call{"exec", []any{runtime.ExecRequest{Ref: e, Spec: []byte("{}"), Stdio: io}}}, nil},
		{
			"delete", ask((*Service).Delete, &taskapi.DeleteRequest{ID: "c"}),
			call{"delete", []any{c}},
			&taskapi.DeleteResponse{Pid: 7, ExitStatus: 3, ExitedAt: at},
		},
		{
			"wait", ask((*Service).Wait, &taskapi.WaitRequest{ID: "c", ExecID: "e"}),
			call{"wait", []any{e}},
			&taskapi.WaitResponse{ExitStatus: 3, ExitedAt: at},
		},
		{
			"pids", ask((*Service).Pids, &taskapi.PidsRequest{ID: "c"}),
			call{"pids", []any{"c"}},
			&taskapi.PidsResponse{Processes: []*tasktypes.ProcessInfo{{Pid: 7}}},
		},
		{"pause", ask((*Service).Pause, &taskapi.PauseRequest{ID: "c"}), call{"pause", []any{"c"}}, nil},
		{"resume", ask((*Service).Resume, &taskapi.ResumeRequest{ID: "c"}), call{"resume", []any{"c"}}, nil},
		{"kill", ask((*Service).Kill, &taskapi.KillRequest{ID: "c", Signal: 9, All: true}), call{"kill", []any{c, uint32(9), true}}, nil},
		{
			"resize", ask((*Service).ResizePty, &taskapi.ResizePtyRequest{ID: "c", Width: 80, Height: 25}),
			call{"resize", []any{c, uint32(80), uint32(25)}},
			nil,
		},
		{
			"close stdin", ask((*Service).CloseIO, &taskapi.CloseIORequest{ID: "c", ExecID: "e", Stdin: true}),
			call{"close stdin", []any{e}},
			nil,
		},
		{
			"update", ask((*Service).Update, &taskapi.UpdateTaskRequest{ID: "c", Resources: &anypb.Any{Value: []byte("{}")}}),
			call{"update", []any{"c", "{}"}},
			nil,
		},
		{
			"stats", ask((*Service).Stats, &taskapi.StatsRequest{ID: "c"}),
			call{"stats", []any{"c"}},
			&taskapi.StatsResponse{Stats: &anypb.Any{TypeUrl: "io.containerd.cgroups.v2.Metrics"}},
		},
		{"state", ask((*Service).State, &taskapi.StateRequest{ID: "c"}), call{"state", []any{c}}, &taskapi.StateResponse{
			ID: "c", Bundle: "/b", Pid: 7, Status: tasktypes.Status_STOPPED, ExitStatus: 3, ExitedAt: at,
		}},
		{
			"connect", ask((*Service).Connect, &taskapi.ConnectRequest{ID: "c"}),
			call{"pids", []any{"c"}},
			&taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: 7},
		},
	}
}

func TestRequestsBecomeCalls(t *testing.T) {
	for _, r := range requests() {
		t.Run(r.name, func(t *testing.T) {
			f := &fake{state: runtime.Stopped}
			got, err := r.send(t.Context(), New(f, "ns", func() {}))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(any(r.want), f.call); diff != "" {
				t.Errorf("call (-want +got):\n%s", diff)
			}
			if r.answer != nil && !proto.Equal(r.answer, got) {
				t.Errorf("answer = %v, want %v", got, r.answer)
			}
		})
	}
}

// TestErrorsKeepTheirClass has the runtime fail, and looks at what a client gets.
func TestErrorsKeepTheirClass(t *testing.T) {
	for class, want := range map[error]codes.Code{
		errdefs.ErrNotFound: codes.NotFound, errdefs.ErrAlreadyExists: codes.AlreadyExists,
		errdefs.ErrFailedPrecondition: codes.FailedPrecondition,
		errdefs.ErrInvalidArgument:    codes.InvalidArgument, errdefs.ErrNotImplemented: codes.Unimplemented,
		errdefs.ErrUnavailable: codes.Unavailable,
		errors.New("anything"): codes.Unknown, context.DeadlineExceeded: codes.DeadlineExceeded,
	} {
		for _, r := range requests() {
			s := New(&fake{err: fmt.Errorf("x: %w", class)}, "ns", func() {})
			_, err := interceptor.Unary(t.Context(), func(any) error { return nil }, &ttrpc.UnaryServerInfo{},
				func(ctx context.Context, _ func(any) error) (any, error) { return r.send(ctx, s) })
			if r.name == "connect" && want == codes.NotFound {
				want := codes.OK // it names the shim all the same
				if got := grpcstatus.Code(err); got != want {
					t.Errorf("%s: %v, want %v", r.name, got, want)
				}
				continue
			}
			if got := grpcstatus.Code(err); got != want {
				t.Errorf("%s with %v: code %v, want %v", r.name, class, got, want)
			}
		}
	}
}

func TestRefusedRequests(t *testing.T) {
	packed := func(m proto.Message) *anypb.Any {
		a, err := anypb.New(m)
		if err != nil {
			t.Fatal(err)
		}
		a.TypeUrl = string(m.ProtoReflect().Descriptor().FullName()) // as containerd names it
		return a
	}
	for _, tt := range []struct {
		name string
		send func(context.Context, *Service) (proto.Message, error)
		want error
	}{
		{"checkpoint", ask((*Service).Create, &taskapi.CreateTaskRequest{ID: "c", Checkpoint: "/x"}), errdefs.ErrNotImplemented},
		{"id", ask((*Service).Create, &taskapi.CreateTaskRequest{ID: "../c"}), errdefs.ErrInvalidArgument},
		{"exec id", ask((*Service).Exec, &taskapi.ExecProcessRequest{ID: "c", ExecID: "a/b"}), errdefs.ErrInvalidArgument},
		{
			"options of another type", ask((*Service).Create, &taskapi.CreateTaskRequest{ID: "c", Options: packed(timestamppb.New(died))}),
			errdefs.ErrInvalidArgument,
		},
		{"a binary of runc's", ask((*Service).Create,
			&taskapi.CreateTaskRequest{ID: "c", Options: packed(&runcoptions.Options{BinaryName: "x"})}), errdefs.ErrInvalidArgument},
		{"checkpoint of a task", ask((*Service).Checkpoint, &taskapi.CheckpointTaskRequest{ID: "c"}), errdefs.ErrNotImplemented},
	} {
		f := &fake{}
		if _, err := tt.send(t.Context(), New(f, "ns", func() {})); !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if f.call != nil {
			t.Errorf("%s reached the runtime: %v", tt.name, f.call)
		}
	}
	f := &fake{}
	if _, err := New(f, "ns", func() {}).Create(t.Context(),
		&taskapi.CreateTaskRequest{ID: "c", Options: packed(&optionsapi.Options{ConfigPath: "/x.toml"})}); err != nil {
		t.Fatal(err)
	}
	if got, ok := f.call.(call); !ok || got.Args[0].(runtime.CreateRequest).Config != "/x.toml" { //nolint:forcetypeassert // the fake's own
		t.Errorf("call = %+v, want the configuration's path", f.call)
	}
}

// TestShutdown leaves once nothing runs.
func TestShutdown(t *testing.T) {
	left := 0
	f := &fake{busy: true}
	s := New(f, "ns", func() { left++ })
	for _, want := range []int{0, 1} {
		if _, err := s.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil || left != want {
			t.Errorf("Shutdown = %v, with containers %v it has left %d times, want %d", err, f.busy, left, want)
		}
		f.busy = false
	}
}
