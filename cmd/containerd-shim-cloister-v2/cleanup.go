// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/log"

	"cloister/cmd/internal/config"
	"cloister/cmd/internal/crashtest"
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
	cfg.Trace = crashtest.Trace(filepath.Base(bundle))
	if err == nil {
		cfg.Class, err = named(filepath.Base(os.Args[0]), cfg.Class, path)
	}
	return cfg, err
}

// deleteLimit is what the program delete has: containerd kills it after 5 s. gc or the next start
// of that name cleans up the rest.
const deleteLimit = 4 * time.Second

func cleanup(ctx context.Context, r bootstrap.Request) (bootstrap.Exit, error) {
	ctx, cancel := context.WithTimeout(ctx, deleteLimit)
	defer cancel()
	path, err := os.Readlink(filepath.Join(r.Bundle, configFile))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return bootstrap.Exit{}, err
	}
	cfg, err := folders(ctx, path)
	if err != nil {
		return bootstrap.Exit{}, err
	}
	cfg.Trace = crashtest.Trace("delete-" + r.ID)
	return bootstrap.Exit{Status: 137, At: time.Now()}, cfg.Recovery().Cleanup(ctx, r.Namespace, r.ID)
}

// folders reads the configuration for what needs only its folders: a wrong key stops no
// cleanup.
func folders(ctx context.Context, path string) (sandbox.Config, error) {
	cfg, problem, err := config.Folders(path)
	if path != "" && errors.Is(err, fs.ErrNotExist) { // taken away since the sandbox was started
		log.G(ctx).WithError(err).Warn("the host's own config is used")
		cfg, problem, err = config.Folders("")
	}
	if problem != nil {
		log.G(ctx).WithError(problem).Warn("no sandbox starts with this config; its folders are used")
	}
	return cfg, err
}

// owner looks where the host's own configuration has the sandboxes.
func owner(ctx context.Context, namespace string, pid int) (id, bundle string, err error) {
	cfg, err := folders(ctx, "")
	if err != nil {
		return "", "", err
	}
	return cfg.Recovery().OfProcess(namespace, pid)
}
