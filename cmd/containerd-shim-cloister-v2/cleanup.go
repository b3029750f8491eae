// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"time"

	"cloister/cmd/internal/config"
	"cloister/sandbox"
	"cloister/shim/bootstrap"
)

// configFile, in a bundle, is a link to the configuration that the sandbox was
// started with: delete runs in a process of its own.
const configFile = "cloister-config"

func load(bundle, path string) (sandbox.Config, error) {
	if path != "" {
		if err := os.Symlink(path, filepath.Join(bundle, configFile)); err != nil && !errors.Is(err, os.ErrExist) {
			return sandbox.Config{}, err
		}
	}
	cfg, err := config.Load(path)
	cfg.Trace = trace(filepath.Base(bundle))
	return cfg, err
}

// deleteLimit is what the program delete has: containerd kills it after 5 s. What is left then is for gc or the next start of that name.
const deleteLimit = 4 * time.Second

func cleanup(ctx context.Context, r bootstrap.Request) (bootstrap.Exit, error) {
	ctx, cancel := context.WithTimeout(ctx, deleteLimit)
	defer cancel()
	path, err := os.Readlink(filepath.Join(r.Bundle, configFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return bootstrap.Exit{}, err
	}
	cfg, err := config.Load(path)
	if err != nil {
		return bootstrap.Exit{}, err
	}
	cfg.Trace = trace("delete-" + r.ID)
	return bootstrap.Exit{Status: 137, At: time.Now()}, sandbox.Cleanup(ctx, cfg, r.Namespace, r.ID)
}

// owner looks where the host's own configuration has the sandboxes.
func owner(_ context.Context, namespace string, pid int) (id, bundle string, err error) {
	cfg, err := config.Load("")
	if err != nil {
		return "", "", err
	}
	return sandbox.OfProcess(cfg, namespace, pid)
}
