// SPDX-License-Identifier: Apache-2.0

package interceptor

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/trace"
	"google.golang.org/grpc/status"
)

// Unary is the interceptor for a ttrpc server. It logs through the logger of the call's context,
// with the fields method, task, exec and took. Internal errors are logged as such, since they are
// the shim's fault; others are the client's to report.
func Unary(ctx context.Context, unmarshal ttrpc.Unmarshaler, info *ttrpc.UnaryServerInfo, method ttrpc.Method) (any, error) {
	fields := log.Fields{"method": info.FullMethod}
	ctx = log.WithLogger(ctx, log.G(ctx).WithFields(fields))
	started := time.Now()
	resp, err := call(ctx, describe(ctx, unmarshal, fields), method)
	fields["took"] = time.Since(started).Round(time.Microsecond)
	logger := log.G(ctx).WithFields(fields)
	if err == nil {
		logger.Debug("call")
		return resp, nil
	}
	logger = logger.WithError(err)
	if errdefs.IsInternal(err) {
		logger.Error("call failed")
	} else {
		logger.Debug("call failed") // the client reports it
	}
	return nil, toGRPC(err)
}

// toGRPC gives the client the text and the class alone: of a chain or a join of errors it would
// print every part once more. An error without a class has the code Unknown; a status from the
// guest that was wrapped without a class keeps its own.
func toGRPC(err error) error {
	class := errdefs.Resolve(err)
	if _, ok := status.FromError(err); !ok || !errors.Is(class, errdefs.ErrUnknown) {
		err = classified{text: err.Error(), class: class}
	}
	return errgrpc.ToGRPC(err) //nolint:forbidigo // this is the one place
}

// classified is an error's text and class without the rest of its chain.
type classified struct {
	text  string
	class error
}

func (e classified) Error() string { return e.text }
func (e classified) Unwrap() error { return e.class }

// call runs the method and turns a panic into an error. Without it, a fault in one call would end
// the daemon and with it every container of the sandbox.
func call(ctx context.Context, unmarshal ttrpc.Unmarshaler, method ttrpc.Method) (resp any, err error) {
	defer func() {
		if r := recover(); r != nil {
			log.G(ctx).Errorf("panic: %v\n%s", r, debug.Stack())
			resp, err = nil, fmt.Errorf("the shim has a bug: panic: %v: %w", r, errdefs.ErrInternal)
		}
	}()
	return method(ctx, unmarshal)
}

// describe adds to fields, and to the call's span, what a request says about its object.
func describe(ctx context.Context, unmarshal ttrpc.Unmarshaler, fields log.Fields) ttrpc.Unmarshaler {
	span := trace.SpanFromContext(ctx)
	say := func(name, value string) {
		if value != "" {
			fields[name] = value
			span.SetAttributes(attribute.String("cloister."+name, value))
		}
	}
	return func(req any) error {
		if err := unmarshal(req); err != nil {
			return err
		}
		if r, ok := req.(interface{ GetID() string }); ok {
			say("task", r.GetID())
		}
		if r, ok := req.(interface{ GetExecID() string }); ok {
			say("exec", r.GetExecID())
		}
		if r, ok := req.(interface{ GetSandboxID() string }); ok {
			say("sandbox", r.GetSandboxID())
		}
		return nil
	}
}
