// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"cloister/cmd/internal/stamp"
	"cloister/runtime"
	"cloister/sandbox"
	"cloister/sandbox/background"
	"cloister/sandbox/template"
	"cloister/shim/bootstrap"
	"cloister/shim/events"
	"cloister/shim/interceptor"
	"cloister/shim/sandboxapi"
	"cloister/shim/tracing"
)

// serve is the daemon's life: it returns when the last sandbox has ended and containerd said
// Shutdown, or on a signal. The order of the end matters: containers first, then their events, then
// the spans about them.
func serve(ctx context.Context, d *bootstrap.Daemon) error {
	// Tracing is off unless the environment names a collector.
	spans, err := tracing.Start(ctx, stamp.Version)
	if err != nil {
		log.G(ctx).WithError(err).Warn("tracing is off: no spans are sent") // the workload counts for more
	}
	publisher := events.New(ctx, d.TTRPCAddress, d.Namespace)
	containers := runtime.New(ctx, asking(ctx, d.Mounts), runtime.StartVM, d.Namespace, d.Mounts, publisher)
	// Both APIs are registered before the first call, since containerd asks for the sandbox API at
	// once.
	tasks := newBackends(d, containers, publisher)
	err = d.ServeTTRPC(ctx, spans.Unary(interceptor.Unary), func(s *ttrpc.Server) {
		bootstrap.RegisterTask(s, tasks.service())
		sandboxv1.RegisterTTRPCSandboxService(s, sandboxapi.New(containers, d.Stop))
	})
	// WithoutCancel: the context is what ended the daemon, and closing still has to undo effects.
	err = errors.Join(err, containers.Close(context.WithoutCancel(ctx)), tasks.close(ctx))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // containerd, or who takes the spans, may be gone
	defer cancel()
	return errors.Join(err, publisher.Close(ctx), spans.Close(ctx))
}

// asking is load, and has templates built in the background for machines that lack one. mounts is
// the host's mount namespace.
func asking(ctx context.Context, mounts *os.File) func(bundle, path string) (sandbox.Config, error) {
	return func(bundle, path string) (sandbox.Config, error) {
		cfg, err := load(bundle, path)
		asker := background.Asker{Mounts: mounts, Path: path, Config: cfg}
		cfg.WantTemplate = func(size template.Size) { asker.Ask(ctx, size) }
		return cfg, err
	}
}
