// SPDX-License-Identifier: Apache-2.0

package classes

import (
	"context"
	"fmt"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"
)

// Backend serves the containers of one class.
type Backend interface {
	taskapi.TTRPCTaskService
	// Empty is true when no container is left or being created. Shutdown ends the shim then, and
	// does nothing otherwise.
	Empty() bool
}

// Choose says which class a container is to have. Its error is the client's.
type Choose func(ctx context.Context, r *taskapi.CreateTaskRequest) (class string, err error)

// Open gives the service of a class. It is called when the sandbox has no container yet.
type Open func(ctx context.Context, class string) (Backend, error)

// Service is the Task API of whichever class the shim's containers have.
type Service struct {
	choose Choose
	open   Open

	mu        sync.Mutex
	class     string
	backend   Backend
	creating  int           // creates that have a backend
	changing  int           // creates, and deletes of containers, under way
	quiet     chan struct{} // closed once none is under way; nil before the first
	dismissed bool          // Shutdown came while one was
	left      bool          // the shim ends
}

// New makes the service. Until the first create, first answers, under the class that is its name.
func New(class string, first Backend, choose Choose, open Open) *Service {
	return &Service{choose: choose, open: open, class: class, backend: first}
}

var _ taskapi.TTRPCTaskService = (*Service)(nil)

// now is the backend of the sandbox. A call takes it once: it does not change while there is a
// container.
func (s *Service) now() Backend {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.backend
}

// Create makes a container in the class that it is to have.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	defer s.change(ctx)()
	class, err := s.choose(ctx, r)
	if err != nil {
		return nil, err
	}
	b, err := s.enter(ctx, r.GetID(), class)
	if err != nil {
		return nil, err
	}
	defer s.leave()
	return b.Create(ctx, r)
}

// enter gives the backend of a class, which is the sandbox's unless it has no container.
func (s *Service) enter(ctx context.Context, id, class string) (Backend, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.left {
		return nil, fmt.Errorf("container %s: the shim is ending: create it again, under a new one: %w", id, errdefs.ErrUnavailable)
	}
	if class != s.class {
		if s.creating > 0 || !s.backend.Empty() {
			return nil,
				fmt.Errorf("container %s: class = %q: its sandbox has class %q, and a sandbox has one: "+
					"use the same runtime handler and annotations for all containers of a pod: %w",
					id, class, s.class, errdefs.ErrInvalidArgument)
		}
		b, err := s.open(ctx, class)
		if err != nil {
			return nil, err
		}
		s.class, s.backend = class, b
	}
	s.creating++
	return s.backend, nil
}

// leave ends what enter has begun.
func (s *Service) leave() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.creating--
}

// change begins a create or a delete, and gives its end. A Shutdown that came meanwhile is carried
// out at the end of the last one.
func (s *Service) change(ctx context.Context) (end func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changing == 0 {
		s.quiet = make(chan struct{})
	}
	s.changing++
	return func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.changing--; s.changing > 0 {
			return
		}
		if s.dismissed {
			s.dismissed = false
			_, _ = s.dismiss(ctx, &taskapi.ShutdownRequest{}) // its client has had an answer
		}
		close(s.quiet)
	}
}

// dismiss has the backend end the shim if it has no container. It is called with mu held and
// nothing under way, so that no create finds a shim that ends.
func (s *Service) dismiss(ctx context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.left = s.left || s.backend.Empty()
	return s.backend.Shutdown(ctx, r)
}

// State tells where a process stands.
func (s *Service) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return s.now().State(ctx, r)
}

// Start runs a created process.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	return s.now().Start(ctx, r)
}

// Delete forgets a process that has ended.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if r.GetExecID() != "" {
		return s.now().Delete(ctx, r)
	}
	defer s.change(ctx)()
	return s.now().Delete(ctx, r)
}

// Pids lists processes.
func (s *Service) Pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	return s.now().Pids(ctx, r)
}

// Pause freezes a container.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	return s.now().Pause(ctx, r)
}

// Resume thaws a container.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	return s.now().Resume(ctx, r)
}

// Checkpoint saves a container.
func (s *Service) Checkpoint(ctx context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	return s.now().Checkpoint(ctx, r)
}

// Kill sends a signal.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	return s.now().Kill(ctx, r)
}

// Exec adds a process.
func (s *Service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	return s.now().Exec(ctx, r)
}

// ResizePty sets the size of a terminal.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	return s.now().ResizePty(ctx, r)
}

// CloseIO ends standard input.
func (s *Service) CloseIO(ctx context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	return s.now().CloseIO(ctx, r)
}

// Update changes limits.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	return s.now().Update(ctx, r)
}

// Wait blocks until a process has ended.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	return s.now().Wait(ctx, r)
}

// Stats gives metrics.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	return s.now().Stats(ctx, r)
}

// Connect tells who answers.
func (s *Service) Connect(ctx context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return s.now().Connect(ctx, r)
}

// Shutdown ends the shim when nothing runs in it. Engines call it after each delete. While a create
// or a delete is under way, it is put off until that has ended: the container may be one that
// another client, which has been killed, has left half-way. If that is the last one, the answer
// waits as well, since a client with an answer may start the next shim.
func (s *Service) Shutdown(ctx context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	if s.changing == 0 {
		defer s.mu.Unlock()
		return s.dismiss(ctx, r)
	}
	s.dismissed = true
	quiet, last := s.quiet, s.backend.Empty()
	s.mu.Unlock()
	if last {
		select {
		case <-quiet:
		case <-ctx.Done():
		}
	}
	return &emptypb.Empty{}, nil
}
