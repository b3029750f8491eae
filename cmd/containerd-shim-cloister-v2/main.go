// SPDX-License-Identifier: Apache-2.0

// Command containerd-shim-cloister-v2 wires the parts and runs the shim.
package main

import (
	"context"
	"errors"
	"os"
	goruntime "runtime"
	"time"

	sandboxv1 "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"cloister/cmd/internal/config"
	"cloister/runtime"
	"cloister/sandbox/cgroup"
	"cloister/shim/bootstrap"
	"cloister/shim/events"
	"cloister/shim/interceptor"
	"cloister/shim/sandboxapi"
	"cloister/shim/tracing"
)

func main() {
	// Threads that enter a namespace or take a label must end; the main one never does.
	goruntime.LockOSThread()
	os.Exit(bootstrap.Main(context.Background(), bootstrap.Config{
		Name:    "io.containerd.cloister.v2",
		Version: config.Version,
		Serve:   serve,
		Delete:  cleanup,
		Info:    features,
		Join:    cgroup.Join,
		Owner:   owner,
		Mounts:  &types.MountCapabilities{Types: []string{"erofs", "ext4", "loop"}, Transforms: []string{"format", "mkdir", "mkfs"}},
	}))
}

func serve(ctx context.Context, d *bootstrap.Daemon) error {
	spans, err := tracing.Start(ctx, config.Version)
	if err != nil {
		log.G(ctx).WithError(err).Warn("no spans are sent") // the workload counts for more
	}
	publisher := events.New(ctx, d.TTRPCAddress, d.Namespace)
	containers := runtime.New(ctx, load, runtime.StartVM, d.Namespace, d.Mounts, publisher)
	tasks := newBackends(d, containers, publisher)
	err = d.ServeTTRPC(ctx, spans.Unary(interceptor.Unary), func(s *ttrpc.Server) {
		bootstrap.RegisterTask(s, tasks.service())
		sandboxv1.RegisterTTRPCSandboxService(s, sandboxapi.New(containers, d.Stop))
	})
	err = errors.Join(err, containers.Close(context.WithoutCancel(ctx)), tasks.close(ctx))
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second) // containerd, or who takes the spans, may be gone
	defer cancel()
	return errors.Join(err, publisher.Close(ctx), spans.Close(ctx))
}
