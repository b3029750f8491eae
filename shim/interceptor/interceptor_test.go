// SPDX-License-Identifier: Apache-2.0

package interceptor_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"cloister/shim/interceptor"
)

func TestUnaryMapsErrors(t *testing.T) {
	t.Parallel()
	fromGuest := status.Error(codes.NotFound, "no such process")
	for _, tt := range []struct {
		name string
		in   error
		want codes.Code
	}{
		{"no error", nil, codes.OK},
		{"not found", fmt.Errorf("task %q: %w", "a", errdefs.ErrNotFound), codes.NotFound},
		{"exists", fmt.Errorf("task %q: %w", "a", errdefs.ErrAlreadyExists), codes.AlreadyExists},
		{"state", fmt.Errorf("start: %w", errdefs.ErrFailedPrecondition), codes.FailedPrecondition},
		{"invalid", errdefs.ErrInvalidArgument, codes.InvalidArgument},
		{"not implemented", errdefs.ErrNotImplemented, codes.Unimplemented},
		{"unavailable", fmt.Errorf("machine: %w", errdefs.ErrUnavailable), codes.Unavailable},
		{"joined with its cause", fmt.Errorf("%w: %w", errdefs.ErrUnavailable, errors.New("eof")), codes.Unavailable},
		{"deadline", fmt.Errorf("wait: %w", context.DeadlineExceeded), codes.DeadlineExceeded},
		{"cancelled", context.Canceled, codes.Canceled},
		{"anything", errors.New("x"), codes.Unknown},
		{"status of the guest", fmt.Errorf("kill: %w", fromGuest), codes.NotFound},
		{"class over status", fmt.Errorf("kill: %w: %w", errdefs.ErrUnavailable, fromGuest), codes.Unavailable},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			_, err := interceptor.Unary(t.Context(), func(any) error { return nil }, &ttrpc.UnaryServerInfo{},
				func(context.Context, func(any) error) (any, error) { return "resp", tt.in })
			if got := status.Code(err); got != tt.want {
				t.Errorf("Unary(%v) = code %v, want %v", tt.in, got, tt.want)
			}
			if tt.in != nil && !strings.Contains(status.Convert(err).Message(), tt.in.Error()) {
				t.Errorf("Unary(%v) = %q, lost the text", tt.in, err)
			}
		})
	}
}

// captureLog keeps what is logged while the test runs; it does not run beside others.
func captureLog(t *testing.T) *bytes.Buffer {
	t.Helper()
	var out bytes.Buffer
	old, level := log.L.Logger.Out, log.GetLevel()
	log.L.Logger.SetOutput(&out)
	if err := log.SetLevel("debug"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		log.L.Logger.SetOutput(old)
		if err := log.SetLevel(level.String()); err != nil {
			t.Error(err)
		}
	})
	return &out
}

func TestUnaryPanic(t *testing.T) {
	out := captureLog(t)
	ctx := t.Context()
	_, err := interceptor.Unary(ctx, func(any) error { return nil }, &ttrpc.UnaryServerInfo{FullMethod: "/Task/Start"},
		func(context.Context, func(any) error) (any, error) { panic("oops") })
	if status.Code(err) != codes.Internal {
		t.Fatalf("Unary of a panic = %v, want code Internal", err)
	}
	for _, want := range []string{"oops", "interceptor_test.go", "/Task/Start"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log %q, want %q in it", out.String(), want)
		}
	}
}

func TestUnaryLogsFields(t *testing.T) {
	out := captureLog(t)
	ctx := t.Context()
	unmarshal := func(v any) error {
		req, ok := v.(*taskapi.KillRequest)
		if !ok {
			return errors.New("want a KillRequest")
		}
		req.ID, req.ExecID = "web", "shell"
		return nil
	}
	resp, err := interceptor.Unary(ctx, unmarshal, &ttrpc.UnaryServerInfo{FullMethod: "/Task/Kill"},
		func(_ context.Context, unmarshal func(any) error) (any, error) {
			return "resp", unmarshal(&taskapi.KillRequest{})
		})
	if err != nil || resp != "resp" {
		t.Fatalf("Unary = %v, %v, want resp", resp, err)
	}
	for _, want := range []string{"method=/Task/Kill", "task=web", "exec=shell", "took="} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("log %q, want %q in it", out.String(), want)
		}
	}
}

// TestClientPrintsAnErrorOnce sends errors to a client and has it print what it got.
func TestClientPrintsAnErrorOnce(t *testing.T) {
	t.Parallel()
	inner := errors.New("unexpected end of JSON input")
	for _, in := range []error{
		inner,
		fmt.Errorf("read manifest %q: %w", "m.json", inner),
		errors.Join(fmt.Errorf("sandbox c: plan: %w", inner), errors.New("undo folder")),
		fmt.Errorf("start: %w: %w", errdefs.ErrFailedPrecondition, inner),
	} {
		_, err := interceptor.Unary(t.Context(), func(any) error { return nil }, &ttrpc.UnaryServerInfo{},
			func(context.Context, func(any) error) (any, error) { return nil, in })
		seen := errgrpc.ToNative(err)
		if got := seen.Error(); got != in.Error() {
			t.Errorf("the client prints %q, want %q", got, in)
		}
	}
}
