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

// load reads the config for a start. path is what the engine names, empty for the host's own.
func load(bundle, path string) (sandbox.Config, error) {
	if path != "" {
		// Before the config is read, so that delete finds it also after a start that failed.
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
// of that name cleans up the rest. Half finished is no harm: each undone effect is struck out of
// the record, and the next cleanup goes on from there.
const deleteLimit = 4 * time.Second

// cleanup is the program delete. containerd also runs it after ordinary ends, where it finds
// nothing and must do nothing to a sandbox that other containers are in.
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
	err = cfg.Recovery().Cleanup(ctx, r.Namespace, r.ID)
	_, notes := cfg.Templates().SweepShared()
	// 137: nobody knows the real status once the shim is gone; containerd shows the container as
	// killed.
	return bootstrap.Exit{Status: 137, At: time.Now()}, errors.Join(err, notes)
}

// folders reads the configuration for what needs only its folders: a wrong key stops no
// cleanup. Errors that remain are about the folders themselves: root obeys none that others may
// write.
func folders(ctx context.Context, path string) (sandbox.Config, error) {
	cfg, problem, err := config.Folders(path)
	if path != "" && errors.Is(err, fs.ErrNotExist) { // taken away since the sandbox was started
		log.G(ctx).WithError(err).Warn("the config of the sandbox is gone: using the host's own")
		cfg, problem, err = config.Folders("")
	}
	if problem != nil {
		log.G(ctx).WithError(problem).Warn("the config has errors: using only its folders")
	}
	return cfg, err
}

// owner looks where the host's own configuration has the sandboxes. It is asked when a container
// names a process's network namespace: whose sandbox that is, the records tell. An engine's own
// config cannot be known at this point.
func owner(ctx context.Context, namespace string, pid int) (id, bundle string, err error) {
	cfg, err := folders(ctx, "")
	if err != nil {
		return "", "", err
	}
	return cfg.Recovery().OfProcess(namespace, pid)
}
