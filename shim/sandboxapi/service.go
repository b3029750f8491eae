// SPDX-License-Identifier: Apache-2.0

package sandboxapi

import (
	"context"
	"fmt"
	goruntime "runtime"
	"sync"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"cloister/runtime"
)

// What containerd's CRI reads as a pod that is, or is not, ready.
const (
	ready    = "SANDBOX_READY"
	notReady = "SANDBOX_NOTREADY"
)

// Service answers containerd's sandbox calls from a runtime. Its errors are of errdefs' classes.
type Service struct {
	runtime  *runtime.Runtime
	shutdown func()

	mu      sync.Mutex
	created time.Time // when the sandbox was started
}

// New makes the service. shutdown is called when the sandbox is to go for good.
func New(r *runtime.Runtime, shutdown func()) *Service {
	return &Service{runtime: r, shutdown: shutdown}
}

var _ sandboxv1.TTRPCSandboxService = (*Service)(nil)

// CreateSandbox checks the pod; its machine is started by StartSandbox. So everything that a pod's
// author can have wrong is an error here.
func (s *Service) CreateSandbox(_ context.Context, r *sandboxv1.CreateSandboxRequest) (*sandboxv1.CreateSandboxResponse, error) {
	if err := checkBundle(r.GetBundlePath()); err != nil {
		return nil, err
	}
	if len(r.GetRootfs()) > 0 {
		return nil, fmt.Errorf("rootfs of a sandbox: a guest has its own: leave it out: %w", errdefs.ErrNotImplemented)
	}
	config, err := parseConfig(r.GetOptions())
	if err != nil {
		return nil, err
	}
	etc, err := files(config)
	if err != nil {
		return nil, err
	}
	pod := newPod(r.GetSandboxID(), r.GetNetnsPath(), config)
	if err := s.runtime.CreatePod(runtime.PodRequest{Pod: pod, Bundle: r.GetBundlePath(), Files: etc}); err != nil {
		return nil, err
	}
	return &sandboxv1.CreateSandboxResponse{}, nil
}

// StartSandbox starts the machine. The pid is QEMU's, in the pod's network namespace. A failed
// start leaves the pod created.
func (s *Service) StartSandbox(ctx context.Context, r *sandboxv1.StartSandboxRequest) (*sandboxv1.StartSandboxResponse, error) {
	pid, err := s.runtime.StartPod(ctx, r.GetSandboxID())
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.created = time.Now()
	return &sandboxv1.StartSandboxResponse{Pid: pid, CreatedAt: timestamppb.New(s.created), Spec: emptySpec()}, nil
}

// emptySpec is what containerd wants to read of a sandbox that has no configuration.
func emptySpec() *anypb.Any {
	return &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Spec", Value: []byte(`{"ociVersion":"1.0.2","linux":{}}`)}
}

// Platform is what the guest runs. It does not ask the guest: an image is built for the host's
// architecture.
func (s *Service) Platform(context.Context, *sandboxv1.PlatformRequest) (*sandboxv1.PlatformResponse, error) {
	return &sandboxv1.PlatformResponse{Platform: &types.Platform{OS: "linux", Architecture: goruntime.GOARCH}}, nil
}

// StopSandbox ends the machine with all that runs in it. A sandbox that has stopped is no error.
func (s *Service) StopSandbox(ctx context.Context, r *sandboxv1.StopSandboxRequest) (*sandboxv1.StopSandboxResponse, error) {
	if err := s.runtime.StopPod(ctx, r.GetSandboxID()); err != nil {
		return nil, err
	}
	return &sandboxv1.StopSandboxResponse{}, nil
}

// WaitSandbox blocks until the machine has ended; containerd learns so that a pod is gone.
func (s *Service) WaitSandbox(ctx context.Context, r *sandboxv1.WaitSandboxRequest) (*sandboxv1.WaitSandboxResponse, error) {
	exited, err := s.runtime.Wait(ctx, runtime.Ref{Container: r.GetSandboxID()})
	if err != nil {
		return nil, err
	}
	return &sandboxv1.WaitSandboxResponse{ExitStatus: exited.Status, ExitedAt: timestamppb.New(exited.At)}, nil
}

// SandboxStatus tells whether the pod can take containers. It asks nothing of the guest, so that it
// answers while the guest is busy.
func (s *Service) SandboxStatus(_ context.Context, r *sandboxv1.SandboxStatusRequest) (*sandboxv1.SandboxStatusResponse, error) {
	status, err := s.runtime.State(runtime.Ref{Container: r.GetSandboxID()})
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	created := s.created
	s.mu.Unlock()
	answer := &sandboxv1.SandboxStatusResponse{
		SandboxID: r.GetSandboxID(), Pid: status.Pid, State: notReady,
		CreatedAt: timestamppb.New(created),
	}
	switch status.State {
	case runtime.Running:
		answer.State = ready
	case runtime.Stopped:
		answer.ExitedAt = timestamppb.New(status.Exited.At)
	case runtime.Created, runtime.Paused, runtime.Deleted:
	}
	if r.GetVerbose() {
		answer.Info, err = s.runtime.PodInfo(r.GetSandboxID())
	}
	return answer, err
}

// PingSandbox answers while the pod is there.
func (s *Service) PingSandbox(_ context.Context, r *sandboxv1.PingRequest) (*sandboxv1.PingResponse, error) {
	if _, err := s.runtime.State(runtime.Ref{Container: r.GetSandboxID()}); err != nil {
		return nil, err
	}
	return &sandboxv1.PingResponse{}, nil
}

// ShutdownSandbox ends the pod and then the shim. It may be repeated.
func (s *Service) ShutdownSandbox(ctx context.Context, r *sandboxv1.ShutdownSandboxRequest) (*sandboxv1.ShutdownSandboxResponse, error) {
	if err := s.runtime.ClosePod(ctx, r.GetSandboxID()); err != nil {
		return nil, err
	}
	s.shutdown()
	return &sandboxv1.ShutdownSandboxResponse{}, nil
}

// SandboxMetrics gives the sum over the pod's containers as cgroup v2 metrics.
func (s *Service) SandboxMetrics(ctx context.Context, r *sandboxv1.SandboxMetricsRequest) (*sandboxv1.SandboxMetricsResponse, error) {
	sum, err := s.runtime.PodStats(ctx, r.GetSandboxID())
	if err != nil {
		return nil, err
	}
	data, err := anypb.New(sum)
	if err != nil {
		return nil, err
	}
	// Clients look the type up by its bare name.
	data.TypeUrl = string(sum.ProtoReflect().Descriptor().FullName())
	return &sandboxv1.SandboxMetricsResponse{Metrics: &types.Metric{Timestamp: timestamppb.Now(), ID: r.GetSandboxID(), Data: data}}, nil
}

// UpdateSandbox cannot change a machine that runs: its memory and CPUs are fixed at the start.
func (s *Service) UpdateSandbox(context.Context, *sandboxv1.UpdateSandboxRequest) (*sandboxv1.UpdateSandboxResponse, error) {
	return nil, fmt.Errorf("update: a machine keeps its size: %w", errdefs.ErrNotImplemented)
}
