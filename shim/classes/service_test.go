// SPDX-License-Identifier: Apache-2.0

package classes

import (
	"context"
	"errors"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
)

// backend is a class whose containers are only counted.
type backend struct {
	taskapi.TTRPCTaskService
	name string
	left int
}

func (b *backend) Empty() bool { return b.left == 0 }

func (b *backend) Create(context.Context, *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	b.left++
	return &taskapi.CreateTaskResponse{}, nil
}

func (b *backend) State(context.Context, *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return &taskapi.StateResponse{Bundle: b.name}, nil
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
