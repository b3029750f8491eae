// SPDX-License-Identifier: Apache-2.0

package classes

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/emptypb"
)

// backend is a class whose containers are only counted.
type backend struct {
	taskapi.TTRPCTaskService
	name string
	left int
	slow chan struct{} // if not nil, Delete and a Create that fails wait for it
	ends int           // as often as Shutdown ended it
}

func (b *backend) Empty() bool { return b.left == 0 }

func (b *backend) Delete(context.Context, *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	<-b.slow
	b.left--
	return &taskapi.DeleteResponse{}, nil
}

func (b *backend) Shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	if b.Empty() {
		b.ends++
	}
	return &emptypb.Empty{}, nil
}

func (b *backend) Create(context.Context, *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	if b.slow != nil {
		<-b.slow
		return nil, errBroken
	}
	b.left++
	return &taskapi.CreateTaskResponse{}, nil
}

func (b *backend) State(context.Context, *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return &taskapi.StateResponse{Bundle: b.name}, nil
}

var errBroken = errors.New("broken")

// TestShutdownMeanwhile: a Shutdown that comes while a container is made or taken away is carried
// out once that has ended, if nothing is left then. Without it the shim of a client that was killed
// would stay for ever: whoever cleans up after the client finds its container gone.
func TestShutdownMeanwhile(t *testing.T) {
	for _, tt := range []struct {
		name        string
		left, ended int
		call        func(ctx context.Context, s *Service) error
		want        error
	}{
		{"a delete of the last", 1, 1, remove, nil},
		{"a delete of another", 2, 0, remove, nil},
		{"a create that fails", 0, 1, create, errBroken},
		{"a create that fails beside a container", 1, 0, create, errBroken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &backend{left: tt.left, slow: make(chan struct{})}
				s := New("vm", b, func(context.Context, *taskapi.CreateTaskRequest) (string, error) { return "vm", nil }, nil)
				got := make(chan error)
				go func() { got <- tt.call(t.Context(), s) }()
				synctest.Wait()
				shutdown(t, s)
				if b.ends != 0 {
					t.Error("it has ended in the middle of a call")
				}
				close(b.slow)
				if err := <-got; !errors.Is(err, tt.want) || b.ends != tt.ended {
					t.Errorf("the call gave %v, want %v; ended %d times, want %d", err, tt.want, b.ends, tt.ended)
				}
				// What was asked for once counts once: a container that comes later stays.
				b.ends = 0
				if err := tt.call(t.Context(), s); !errors.Is(err, tt.want) || b.ends != 0 {
					t.Errorf("a later call gave %v and ended it %d times", err, b.ends)
				}
			})
		})
	}
}

func remove(ctx context.Context, s *Service) error {
	_, err := s.Delete(ctx, &taskapi.DeleteRequest{ID: "one"})
	return err
}

func create(ctx context.Context, s *Service) error {
	_, err := s.Create(ctx, &taskapi.CreateTaskRequest{ID: "one"})
	return err
}

func shutdown(t *testing.T, s *Service) {
	t.Helper()
	if _, err := s.Shutdown(t.Context(), &taskapi.ShutdownRequest{}); err != nil {
		t.Error(err)
	}
}

func TestOneClassForASandbox(t *testing.T) {
	vm, process := &backend{name: "vm"}, &backend{name: "process"}
	refused := errors.New("refused")
	s := New("vm", vm, func(_ context.Context, r *taskapi.CreateTaskRequest) (string, error) {
		if r.GetBundle() == "" {
			return "", refused
		}
		return r.GetBundle(), nil
	}, func(_ context.Context, class string) (Backend, error) {
		return map[string]Backend{"vm": vm, "process": process}[class], nil
	})
	create := func(id, class string) error {
		_, err := s.Create(t.Context(), &taskapi.CreateTaskRequest{ID: id, Bundle: class})
		return err
	}
	answers := func(want string) {
		t.Helper()
		if r, err := s.State(t.Context(), &taskapi.StateRequest{}); err != nil || r.GetBundle() != want {
			t.Errorf("State is answered by %v, %v, want %s", r, err, want)
		}
	}
	answers("vm")
	if err := create("one", ""); !errors.Is(err, refused) {
		t.Errorf("Create = %v, want %v", err, refused)
	}
	if err := errors.Join(create("one", "process"), create("two", "process")); err != nil {
		t.Fatal(err)
	}
	answers("process")
	err := create("three", "vm")
	if !errors.Is(err, errdefs.ErrInvalidArgument) || !strings.Contains(err.Error(), `class = "vm"`) ||
		!strings.Contains(err.Error(), "same runtime handler") {
		t.Errorf("Create of another class = %v, want an error with field, value and remedy", err)
	}
	process.left = 0
	if err := create("three", "vm"); err != nil || vm.left != 1 {
		t.Errorf("Create after the last of the other class = %v, %d containers", err, vm.left)
	}
	answers("vm")
}
