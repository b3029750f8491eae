// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"

	"cloister/cmd/internal/config"
	"cloister/oci"
	"cloister/runtime"
	"cloister/sandbox"
	"cloister/sandbox/crun"
	"cloister/sandbox/process"
	"cloister/shim/bootstrap"
	"cloister/shim/classes"
	"cloister/shim/events"
	"cloister/shim/task"
)

// classOf reads which class a container is to have from the config that its runtime handler names
// and from its annotations. Both are read before a backend is chosen. An error here is the answer
// of Create, with the field named; nothing has been started.
func classOf(_ context.Context, r *taskapi.CreateTaskRequest) (string, error) {
	path, err := task.ConfigPath(r.GetOptions())
	if err != nil {
		return "", err
	}
	cfg, err := load(r.GetBundle(), path)
	if err != nil {
		return "", err
	}
	f, err := os.Open(filepath.Join(r.GetBundle(), "config.json"))
	if err != nil {
		return "", fmt.Errorf("bundle: %w: %w", err, errdefs.ErrNotFound)
	}
	defer f.Close() // read only
	// One byte more than is allowed, so that oci says that it is too large.
	data, err := io.ReadAll(io.LimitReader(f, oci.MaxBytes+1))
	if err != nil {
		return "", err
	}
	class, err := oci.ClassOf(data, cfg.Class, cfg.Workloads)
	return string(class), err
}

// processName is the shim of the runtime io.containerd.cloister-process.v2: installations have it
// as a link to this program. The name tells the class where an engine can pass no options: nerdctl
// and ctr name a type alone.
const processName = "containerd-shim-cloister-process-v2"

// named is the class that a shim of that name gives its containers. The name counts for more than
// the host's own config, which both names share. A config that an engine names for it may not say
// another class. path is empty when the engine named no config.
func named(shim string, configured oci.Class, path string) (oci.Class, error) {
	if shim != processName {
		return configured, nil
	}
	if path != "" && configured != "" && configured != oci.ClassProcess {
		return "", fmt.Errorf("class = %q in %q: the runtime io.containerd.cloister-process.v2 has class %q: "+
			"use io.containerd.cloister.v2, or another config: %w", configured, path, oci.ClassProcess, errdefs.ErrInvalidArgument)
	}
	return oci.ClassProcess, nil
}

// sameFolders refuses a config that an engine names for plain containers if it keeps its sandboxes
// elsewhere than the host's own: two registries would give out one level twice, and the command
// line would not see them. It is asked only for a config that an engine names; the host's own is
// what it is compared with.
func sameFolders(cfg, own sandbox.Config, path string) error {
	have, want := cfg.Recovery(), own.Recovery()
	if filepath.Clean(have.State) == filepath.Clean(want.State) && filepath.Clean(have.Root) == filepath.Clean(want.Root) {
		return nil
	}
	return fmt.Errorf("config %q: state = %q and root = %q: class process shares both folders with class vm, "+
		"whose config has %q and %q: set the same in both configs, or leave them out of both: %w",
		path, have.State, have.Root, want.State, want.Root, errdefs.ErrInvalidArgument)
}

// backends opens the service of each class. The one for machines is there from the start; the one
// for plain containers, which makes this process the parent of the host's, is made when it is first
// wanted. The service for plain containers reaps all children of this process, as runc's shim does;
// a shim of machines must not. It is safe for concurrent use: containers of a pod may come at once.
type backends struct {
	daemon    *bootstrap.Daemon
	machines  classes.Backend
	publisher *events.Publisher

	mu      sync.Mutex
	process *process.Service // nil until the first container of its class
}

// newBackends makes the service of machines; that of plain containers waits for the first one.
func newBackends(d *bootstrap.Daemon, machines *runtime.Runtime, p *events.Publisher) *backends {
	return &backends{daemon: d, machines: task.New(machines, d.Namespace, d.Stop), publisher: p}
}

// service is the Task API of the shim: of machines until a container of another class comes.
// classes sends later calls to the class of the first container: a pod is one class.
func (b *backends) service() *classes.Service {
	return classes.New(string(oci.ClassVM), b.machines, classOf, b.open)
}

// open is called for the first container of a class. After an error it is tried again by the next
// container.
func (b *backends) open(ctx context.Context, class string) (classes.Backend, error) {
	if class == string(oci.ClassVM) {
		return b.machines, nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.process == nil {
		s, err := process.New(ctx, b.settings, b.daemon.Namespace, b.publisher, b.daemon.Clients, b.daemon.Stop)
		if err != nil {
			return nil, err
		}
		b.process = s
	}
	return b.process, nil
}

// settings is what class process needs to know of the config of a bundle. The labels' rules and
// folders are those of machines, so both classes draw from one registry.
func (b *backends) settings(bundle string, r *taskapi.CreateTaskRequest) (process.Config, error) {
	path, err := task.ConfigPath(r.GetOptions())
	if err != nil {
		return process.Config{}, err
	}
	cfg, err := load(bundle, path)
	if err != nil {
		return process.Config{}, err
	}
	if path != "" {
		own, _, err := config.Folders("")
		if err == nil {
			err = sameFolders(cfg, own, path)
		}
		if err != nil {
			return process.Config{}, err
		}
	}
	program, err := crun.Find(cfg.Process.Runtime)
	if err != nil {
		return process.Config{}, err
	}
	return process.Config{Host: cfg.Recovery(), Runtime: program, Rules: cfg.LabelRules(), Workloads: cfg.Workloads}, nil
}

// close ends what was made; the machines' part is closed by serve.
func (b *backends) close(ctx context.Context) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.process == nil {
		return nil
	}
	return b.process.Close(ctx)
}
