// SPDX-License-Identifier: Apache-2.0

// Command containerd-shim-cloister-v2 wires the parts and runs the shim.
package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	goruntime "runtime"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/ttrpc"

	"cloister/cmd/internal/config"
	"cloister/runtime"
	"cloister/sandbox"
	"cloister/shim/bootstrap"
	"cloister/shim/events"
	"cloister/shim/interceptor"
	"cloister/shim/task"
)

func main() {
	// Threads that enter a namespace or take a label must end; the main one never does.
	goruntime.LockOSThread()
	os.Exit(bootstrap.Main(context.Background(), bootstrap.Config{
		Name:    "io.containerd.cloister.v2",
		Version: config.Version,
		Serve:   serve,
		Delete:  cleanup,
		Mounts:  &types.MountCapabilities{Types: []string{"erofs", "ext4", "loop"}, Transforms: []string{"format", "mkdir", "mkfs"}},
	}))
}

// configFile, in a bundle, is a link to the configuration that the sandbox was
// started with: delete runs in a process of its own.
const configFile = "cloister-config"

func load(bundle, path string) (sandbox.Config, error) {
	if path != "" {
		if err := os.Symlink(path, filepath.Join(bundle, configFile)); err != nil && !errors.Is(err, os.ErrExist) {
			return sandbox.Config{}, err
		}
	}
	return config.Load(path)
}

func serve(ctx context.Context, d *bootstrap.Daemon) error {
	publisher := events.New(ctx, d.TTRPCAddress, d.Namespace)
	containers := runtime.New(ctx, load, d.Namespace, publisher)
	err := d.ServeTTRPC(ctx, interceptor.Unary, func(s *ttrpc.Server) {
		bootstrap.RegisterTask(s, task.New(containers, d.Namespace, d.Stop))
	})
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	return errors.Join(err, containers.Close(ctx), publisher.Close(ctx))
}

func cleanup(ctx context.Context, r bootstrap.Request) (bootstrap.Exit, error) {
	path, err := os.Readlink(filepath.Join(r.Bundle, configFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return bootstrap.Exit{}, err
	}
	cfg, err := config.Load(path)
	if err != nil {
		return bootstrap.Exit{}, err
	}
	return bootstrap.Exit{Status: 137, At: time.Now()}, sandbox.Cleanup(ctx, cfg, r.Namespace, r.ID)
}
