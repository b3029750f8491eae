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

func chooseVM(context.Context, *taskapi.CreateTaskRequest) (string, error) { return "vm", nil }

// TestShutdownIsPutOff: a Shutdown that comes while a container is made or taken away is carried
// out once that has ended, if nothing is left then. Without it the shim of a client that was killed
// would stay for ever: whoever cleans up after the client finds its container gone.
func TestShutdownIsPutOff(t *testing.T) {
	for _, tt := range []struct {
		name        string
		left, ended int
		calls       int // under way at once
		call        func(ctx context.Context, s *Service) error
		want        error
	}{
		{"a delete of the last", 1, 1, 1, remove, nil},
		{"a delete of another", 2, 0, 1, remove, nil},
		{"two deletes", 2, 1, 2, remove, nil},
		{"a create that fails", 0, 1, 1, create, errBroken},
		{"a create that fails beside a container", 1, 0, 1, create, errBroken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := &backend{left: tt.left, slow: make(chan struct{})}
				s := New("vm", b, chooseVM, nil)
				got := make(chan error)
				for range tt.calls {
					go func() { got <- tt.call(t.Context(), s) }()
				}
				synctest.Wait()
				go shutdown(t, s)
				synctest.Wait()
				for range tt.calls {
					if b.ends != 0 {
						t.Error("it has ended in the middle of a call")
					}
					b.slow <- struct{}{}
					if err := <-got; !errors.Is(err, tt.want) {
						t.Errorf("the call gave %v, want %v", err, tt.want)
					}
				}
				if b.ends != tt.ended {
					t.Errorf("ended %d times, want %d", b.ends, tt.ended)
				}
				// What was asked for once counts once.
				go func() { got <- remove(t.Context(), s) }()
				b.slow <- struct{}{}
				if err := <-got; err != nil || b.ends != tt.ended {
					t.Errorf("a later delete gave %v; ended %d times, want %d", err, b.ends, tt.ended)
				}
			})
		})
	}
}

// TestShutdownOfTheLastWaits: a client with an answer may start the next shim, which must not find
// this one while another client's delete still takes the sandbox down.
func TestShutdownOfTheLastWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := &backend{left: 1, slow: make(chan struct{})}
		s := New("vm", b, chooseVM, nil)
		deleted, answered := make(chan error), make(chan struct{})
		go func() { deleted <- remove(t.Context(), s) }()
		synctest.Wait()
		b.left = 0 // its name is free, and the sandbox is not down
		go func() {
			shutdown(t, s)
			close(answered)
		}()
		synctest.Wait()
		select {
		case <-answered:
			t.Error("Shutdown is answered before the delete has ended")
		default:
		}
		ctx, leave := context.WithCancel(t.Context())
		leave()
		if _, err := s.Shutdown(ctx, &taskapi.ShutdownRequest{}); err != nil {
			t.Errorf("Shutdown of a client that has gone = %v", err)
		}
		b.left = 1 // as Delete counts
		b.slow <- struct{}{}
		if err := <-deleted; err != nil {
			t.Error(err)
		}
		<-answered
		if b.ends != 1 {
			t.Errorf("ended %d times, want once", b.ends)
		}
		if err := create(t.Context(), s); !errdefs.IsUnavailable(err) {
			t.Errorf("Create in a shim that ends = %v, want unavailable", err)
		}
	})
}

// TestCreateThatChoosesCounts: a create is under way before its class is known.
func TestCreateThatChoosesCounts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, chosen, got := &backend{}, make(chan error), make(chan error)
		s := New("vm", b, func(context.Context, *taskapi.CreateTaskRequest) (string, error) { return "", <-chosen }, nil)
		go func() { got <- create(t.Context(), s) }()
		synctest.Wait()
		go shutdown(t, s)
		synctest.Wait()
		if b.ends != 0 {
			t.Error("it has ended while a create was choosing")
		}
		chosen <- errBroken
		if err := <-got; !errors.Is(err, errBroken) || b.ends != 1 {
			t.Errorf("Create = %v, ended %d times, want %v and once", err, b.ends, errBroken)
		}
	})
}

// TestNoOtherClassDuringACreate: two creates at once cannot have two classes.
func TestNoOtherClassDuringACreate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, got := &backend{slow: make(chan struct{})}, make(chan error)
		class := "vm"
		s := New("vm", b, func(context.Context, *taskapi.CreateTaskRequest) (string, error) { return class, nil },
			func(context.Context, string) (Backend, error) { return &backend{}, nil })
		go func() { got <- create(t.Context(), s) }()
		synctest.Wait()
		class = "process"
		if err := create(t.Context(), s); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Create of another class = %v, want invalid", err)
		}
		b.slow <- struct{}{}
		if err := <-got; !errors.Is(err, errBroken) {
			t.Errorf("the first Create = %v, want %v", err, errBroken)
		}
	})
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
