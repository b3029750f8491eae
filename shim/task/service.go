// SPDX-License-Identifier: Apache-2.0

package task

import (
	"context"
	"fmt"
	"os"

	metrics "github.com/containerd/cgroups/v3/cgroup2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	runcoptions "github.com/containerd/containerd/api/types/runc/options"
	optionsapi "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cloister/runtime"
	"cloister/runtime/stdio"
)

// Runtime is the Task API in the runtime's own values; a *runtime.Runtime.
type Runtime interface { //nolint:interfacebloat // as many methods as the Task API has
	Create(ctx context.Context, req runtime.CreateRequest) (pid uint32, err error)
	Start(ctx context.Context, ref runtime.Ref) (pid uint32, err error)
	Exec(ctx context.Context, req runtime.ExecRequest) error
	Delete(ctx context.Context, ref runtime.Ref) (pid uint32, exited runtime.Exited, err error)
	State(ref runtime.Ref) (runtime.Status, error)
	Pids(id string) (pid uint32, err error)
	Wait(ctx context.Context, ref runtime.Ref) (runtime.Exited, error)
	Pause(ctx context.Context, id string) error
	Resume(ctx context.Context, id string) error
	Kill(ctx context.Context, ref runtime.Ref, signal uint32, all bool) error
	ResizePty(ctx context.Context, ref runtime.Ref, width, height uint32) error
	CloseStdin(ctx context.Context, ref runtime.Ref) error
	Update(ctx context.Context, id string, resources []byte) error
	Stats(ctx context.Context, id string) (*metrics.Metrics, error)
	Empty() bool
}

// Service answers containerd's task calls from a runtime. Its errors are of errdefs' classes;
// package interceptor makes gRPC of them.
type Service struct {
	runtime   Runtime
	namespace string
	shutdown  func()
}

// New makes the service. shutdown is called once no container is left and containerd asks for it;
// it may be called more than once.
func New(r Runtime, namespace string, shutdown func()) *Service {
	return &Service{runtime: r, namespace: namespace, shutdown: shutdown}
}

var _ taskapi.TTRPCTaskService = (*Service)(nil)

// Empty is true when no container is left or being created.
func (s *Service) Empty() bool { return s.runtime.Empty() }

// Create makes the container, and the sandbox if there is none yet. The id is checked here, since
// it becomes the name of folders and cgroups. A container that cannot be made leaves nothing.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if r.GetCheckpoint() != "" || r.GetParentCheckpoint() != "" {
		return nil, fmt.Errorf("checkpoint %q: a guest cannot be restored from one: %w", r.GetCheckpoint(), errdefs.ErrNotImplemented)
	}
	if err := identifiers.Validate(r.GetID()); err != nil {
		return nil, err
	}
	req := runtime.CreateRequest{
		ID:     r.GetID(),
		Bundle: r.GetBundle(),
		Stdio:  s.stdio(r.GetID(), r),
	}
	var err error
	if req.Config, err = ConfigPath(r.GetOptions()); err != nil {
		return nil, err
	}
	for _, m := range r.GetRootfs() {
		req.Rootfs = append(req.Rootfs, runtime.Mount{
			Type: m.GetType(), Source: m.GetSource(),
			Target: m.GetTarget(), Options: m.GetOptions(),
		})
	}
	pid, err := s.runtime.Create(ctx, req)
	if err != nil {
		return nil, err
	}
	return &taskapi.CreateTaskResponse{Pid: pid}, nil
}

// ConfigPath is where an engine's runtime options say that the configuration is; empty for the
// host's own. Options of another type are an error: a user who set them expects that they work.
func ConfigPath(options *anypb.Any) (string, error) {
	// containerd's CRI sends runc's options, whatever the runtime, for pods of the Sandbox API.
	// Their cgroup for the shim is seen to at its start.
	if runc := (&runcoptions.Options{}); options.MessageIs(runc) {
		if err := options.UnmarshalTo(runc); err != nil {
			return "", fmt.Errorf("runtime options: %w: %w", errdefs.ErrInvalidArgument, err)
		}
		if runc.GetBinaryName() != "" {
			return "", fmt.Errorf("runtime option BinaryName %q: containers run in a guest, by the guest's own runtime: leave it out: %w",
				runc.GetBinaryName(), errdefs.ErrInvalidArgument)
		}
		return "", nil
	}
	if len(options.GetValue()) == 0 {
		return "", nil
	}
	var o optionsapi.Options
	if options.GetTypeUrl() != string(o.ProtoReflect().Descriptor().FullName()) {
		return "", fmt.Errorf("runtime options of type %q: want %s with config_path: %w", options.GetTypeUrl(),
			o.ProtoReflect().Descriptor().FullName(), errdefs.ErrInvalidArgument)
	}
	if err := proto.Unmarshal(options.GetValue(), &o); err != nil {
		return "", fmt.Errorf("runtime options: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	return o.GetConfigPath(), nil
}

// streams is what Create and Exec requests have in common.
type streams interface {
	GetStdin() string
	GetStdout() string
	GetStderr() string
	GetTerminal() bool
}

// stdio takes the addresses as they are; package stdio reads them.
func (s *Service) stdio(id string, r streams) stdio.Config {
	return stdio.Config{
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal(),
		ContainerID: id, Namespace: s.namespace,
	}
}

// Start starts a created process.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	pid, err := s.runtime.Start(ctx, ref(r))
	if err != nil {
		return nil, err
	}
	return &taskapi.StartResponse{Pid: pid}, nil
}

// Delete forgets a stopped process and cleans up after it. The pid is the machine's, as in every
// answer.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	pid, exited, err := s.runtime.Delete(ctx, ref(r))
	if err != nil {
		return nil, err
	}
	return &taskapi.DeleteResponse{Pid: pid, ExitStatus: exited.Status, ExitedAt: timestamppb.New(exited.At)}, nil
}

// Exec adds a process to a container; Start runs it. Its id is checked for the same reason as a
// container's.
func (s *Service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	if err := identifiers.Validate(r.GetExecID()); err != nil {
		return nil, fmt.Errorf("exec: %w", err)
	}
	return empty(s.runtime.Exec(ctx, runtime.ExecRequest{Ref: ref(r), Spec: r.GetSpec().GetValue(), Stdio: s.stdio(r.GetID(), r)}))
}

// State tells where a process stands.
func (s *Service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	st, err := s.runtime.State(ref(r))
	if err != nil {
		return nil, err
	}
	out := &taskapi.StateResponse{
		ID: r.GetID(), ExecID: r.GetExecID(), Bundle: st.Bundle, Pid: st.Pid, Status: status(st.State),
		Stdin: st.Stdio.Stdin, Stdout: st.Stdio.Stdout, Stderr: st.Stdio.Stderr, Terminal: st.Stdio.Terminal,
	}
	if st.State == runtime.Stopped {
		out.ExitStatus, out.ExitedAt = st.Exited.Status, timestamppb.New(st.Exited.At)
	}
	return out, nil
}

// status is a state in containerd's enumeration. A deleted process is not found, and has no state.
func status(s runtime.State) tasktypes.Status {
	switch s {
	case runtime.Created:
		return tasktypes.Status_CREATED
	case runtime.Running:
		return tasktypes.Status_RUNNING
	case runtime.Paused:
		return tasktypes.Status_PAUSED
	case runtime.Stopped, runtime.Deleted:
		return tasktypes.Status_STOPPED
	}
	return tasktypes.Status_UNKNOWN
}

// Pids lists the machine's pid: the only one that means anything on the host.
func (s *Service) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	pid, err := s.runtime.Pids(r.GetID())
	if err != nil {
		return nil, err
	}
	out := &taskapi.PidsResponse{}
	if pid != 0 {
		out.Processes = []*tasktypes.ProcessInfo{{Pid: pid}}
	}
	return out, nil
}

// Pause freezes a container in the guest.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return empty(s.runtime.Pause(ctx, r.GetID()))
}

// Resume thaws a paused container.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return empty(s.runtime.Resume(ctx, r.GetID()))
}

// Checkpoint is not offered: a guest's memory is not a container's.
func (s *Service) Checkpoint(context.Context, *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return nil, fmt.Errorf("checkpoint: a container in a guest cannot be checkpointed: %w", errdefs.ErrNotImplemented)
}

// Kill sends a signal to a process, or to all of a container.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	return empty(s.runtime.Kill(ctx, ref(r), r.GetSignal(), r.GetAll()))
}

// ResizePty sets the size of a process's terminal.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return empty(s.runtime.ResizePty(ctx, ref(r), r.GetWidth(), r.GetHeight()))
}

// CloseIO ends a process's standard input once what was written has arrived.
func (s *Service) CloseIO(ctx context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	if !r.GetStdin() {
		return &emptypb.Empty{}, nil
	}
	return empty(s.runtime.CloseStdin(ctx, ref(r)))
}

// Update changes a container's limits.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return empty(s.runtime.Update(ctx, r.GetID(), r.GetResources().GetValue()))
}

// Wait blocks until a process has ended.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	exited, err := s.runtime.Wait(ctx, ref(r))
	if err != nil {
		return nil, err
	}
	return &taskapi.WaitResponse{ExitStatus: exited.Status, ExitedAt: timestamppb.New(exited.At)}, nil
}

// Stats gives the guest's cgroup v2 metrics of a container: the host's cgroups know the machine
// alone.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	metrics, err := s.runtime.Stats(ctx, r.GetID())
	if err != nil {
		return nil, err
	}
	stats, err := anypb.New(metrics)
	if err != nil {
		return nil, err
	}
	// Clients look the type up by its bare name.
	stats.TypeUrl = string(metrics.ProtoReflect().Descriptor().FullName())
	return &taskapi.StatsResponse{Stats: stats}, nil
}

// Connect tells who answers; task_pid is 0 when the container is gone. containerd calls it after
// its own restart to learn the daemon's pid.
func (s *Service) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	pid, err := s.runtime.Pids(r.GetID())
	if err != nil && !errdefs.IsNotFound(err) {
		return nil, err
	}
	return &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid()), TaskPid: pid}, nil
}

// Shutdown ends the shim when nothing runs in it any more; containerd calls it after every task's
// delete, also while other containers of the pod run. So it is no error and does nothing then.
func (s *Service) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	if s.runtime.Empty() {
		s.shutdown()
	}
	return &emptypb.Empty{}, nil
}

// processRequest is a request about a process.
type processRequest interface {
	GetID() string
	GetExecID() string
}

// ref names the process that a request is about.
func ref(r processRequest) runtime.Ref {
	return runtime.Ref{Container: r.GetID(), Exec: r.GetExecID()}
}

// empty is the answer of a call that has none.
func empty(err error) (*emptypb.Empty, error) {
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}
