// SPDX-License-Identifier: Apache-2.0

package host

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"cloister/tests/clients"
)

// Dockerd is Docker's daemon upon a containerd, with its own root, state and socket in the same
// place.
type Dockerd struct {
	*Containerd
	// CgroupParent is the name of the cgroup below which its containers have theirs, in every
	// hierarchy.
	CgroupParent string
	LogFile      string
	bin, docker  string
	config       string
	done         chan struct{}
}

// StartDockerd starts a daemon that ends with the test at the latest. settings are added to
// daemon.json. Its log is shown when the test fails.
func (c *Containerd) StartDockerd(t testing.TB, settings map[string]any) *Dockerd {
	t.Helper()
	return c.startDockerd(t, clients.Need(t, clients.Dockerd, "dockerd"), clients.Need(t, clients.Docker, "docker"), settings)
}

// StartDistributionDockerd is StartDockerd with Docker as the distribution has it.
func (c *Containerd) StartDistributionDockerd(t testing.TB, settings map[string]any) *Dockerd {
	t.Helper()
	bin := clients.Need(t, clients.DockerIO, "dockerd")
	return c.startDockerd(t, bin, bin, settings)
}

func (c *Containerd) startDockerd(t testing.TB, bin, docker string, settings map[string]any) *Dockerd {
	t.Helper()
	d := &Dockerd{
		Containerd: c, CgroupParent: filepath.Base(c.Place.Dir), LogFile: filepath.Join(c.Place.Dir, "dockerd.log"),
		config: filepath.Join(c.Place.Dir, "daemon.json"), bin: bin, docker: docker,
	}
	// live-restore, since tests restart the daemon under containers that go on.
	all := map[string]any{
		"data-root": filepath.Join(c.Place.Dir, "docker"), "exec-root": "/run/docker", "pidfile": "/run/docker.pid",
		"hosts": []string{"unix:///run/docker.sock"}, "containerd": c.Address, "cgroup-parent": "/" + d.CgroupParent,
		"userland-proxy-path": filepath.Join(d.bin, "docker-proxy"), "live-restore": true,
	}
	maps.Copy(all, settings)
	text, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(d.config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the end of dockerd's log:\n%s", tail(d.LogFile, 60))
		}
	})
	d.Start(t)
	return d
}

// Start starts the daemon, again after Stop, and waits until it serves.
func (d *Dockerd) Start(t testing.TB) {
	t.Helper()
	log, err := os.OpenFile(d.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := d.Place.Command(context.WithoutCancel(t.Context()), filepath.Join(d.bin, "dockerd"), "--config-file", d.config)
	cmd.Env, cmd.Stdout, cmd.Stderr = d.environment(), log, log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	d.done = make(chan struct{})
	go d.wait(cmd, d.done)
	awaitServing(t, "dockerd", d.LogFile, d.done, func() *exec.Cmd { return d.Docker(t.Context(), "version") })
}

// Stop ends the daemon with signal ("TERM", "KILL") and waits for its end; what it runs stays, with
// live-restore.
func (d *Dockerd) Stop(t testing.TB, signal string) {
	t.Helper()
	for pid, line := range d.Place.Processes(t) {
		if strings.HasPrefix(line, filepath.Join(d.bin, "dockerd")+" --config-file "+d.config) {
			d.Place.Run(t, "kill", "-"+signal, fmt.Sprint(pid))
		}
	}
	select {
	case <-d.done:
	case <-time.After(Patience):
		t.Fatal("dockerd does not end")
	}
}

func (d *Dockerd) environment() []string {
	return append(slices.Clone(d.Env), "DOCKER_HOST=unix:///run/docker.sock", "DOCKER_CONFIG="+filepath.Join(d.Place.Dir, "cli"))
}

// Docker prepares a command of Docker's command line.
func (d *Dockerd) Docker(ctx context.Context, args ...string) *exec.Cmd {
	cmd := d.Place.Command(ctx, filepath.Join(d.docker, "docker"), args...)
	cmd.Env = d.environment()
	return cmd
}

// RunDocker runs Docker's command line to its end, also when the test's own context is over.
func (d *Dockerd) RunDocker(t testing.TB, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(t.Context()), CallLimit, fmt.Errorf("not over after %s", CallLimit))
	defer cancel()
	return d.Finish(ctx, t, d.Docker(ctx, args...))
}

// MustDocker runs Docker's command line and fails the test unless it exits with 0; it gives the
// standard output.
func (d *Dockerd) MustDocker(t testing.TB, args ...string) string {
	t.Helper()
	r := d.RunDocker(t, args...)
	if r.Code != 0 {
		t.Fatalf("docker %s: exit %d\nstdout: %s\nstderr: %s", strings.Join(args, " "), r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}
