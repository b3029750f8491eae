// SPDX-License-Identifier: Apache-2.0

package docker

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/leaks"
	"cloister/tests/testenv"
)

const (
	// image has a volume in it; its base is the busybox.
	image       = "cloister/busybox"
	volumeImage = "ghcr.io/containerd/volume-copy-up:2.2"
	byName      = "--runtime=io.containerd.cloister.v2" // else the entry of daemon.json is taken, the default there
)

// engine is a dockerd whose default runtime is cloister.
type engine struct {
	*host.Dockerd
}

func newEngine(t *testing.T) *engine {
	t.Helper()
	program := testenv.NeedSandbox(t)
	testenv.NeedTool(t, "iptables")
	set, err := images.Set(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	place := host.New(t)
	config := filepath.Join(place.Dir, "entry.toml")
	t.Cleanup(func() { leaks.RemoveCgroups(t, filepath.Base(place.Dir)) })
	c := place.StartContainerd(t, host.Options{Version: host.Current, Cloister: "[timeouts]\nboot = \"5m\"\n"})
	text, err := os.ReadFile(filepath.Join(place.Dir, "cloister.toml"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, text, 0o600); err != nil {
		t.Fatal(err)
	}
	b := &engine{Dockerd: c.StartDockerd(t, map[string]any{
		"default-runtime": "cloister",
		"runtimes": map[string]any{"cloister": map[string]any{
			"runtimeType": "io.containerd.cloister.v2",
			"options":     map[string]any{"TypeUrl": "runtimeoptions.v1.Options", "ConfigPath": config},
		}},
		"init-path": testenv.NeedTool(t, "tini-static"),
	})}
	archive := filepath.Join(place.Dir, "images.tar")
	if err := images.Save(archive, set); err != nil {
		t.Fatal(err)
	}
	b.MustDocker(t, "load", "--input", archive)
	return b
}

// start runs a container in the background that is taken away when the test ends; it sleeps unless
// args say more.
func (b *engine) start(t *testing.T, name string, options []string, command ...string) {
	t.Helper()
	if len(command) == 0 {
		command = []string{"sleep", "1000"}
	}
	t.Cleanup(func() { b.RunDocker(t, "rm", "--force", "--volumes", name) })
	b.MustDocker(t, append(append([]string{"run", "--detach", "--name", name}, options...), append([]string{image}, command...)...)...)
}

// in runs a script in a container and gives what it wrote to both outputs, without blanks around
// it.
func (b *engine) in(t *testing.T, name, script string) string {
	t.Helper()
	return strings.TrimSpace(b.RunDocker(t, "exec", name, "sh", "-c", script+" 2>&1").Stdout)
}

// say compares what a script in a container wrote.
func (b *engine) say(t *testing.T, name, what, want, script string) {
	t.Helper()
	if got := b.in(t, name, script); got != want {
		t.Errorf("%s: %s = %q, want %q", what, script, got, want)
	}
}

// inspect gives a part of what Docker knows of a container.
func (b *engine) inspect(t *testing.T, name, format string) string {
	t.Helper()
	return strings.TrimSpace(b.MustDocker(t, "inspect", "--format", format, name))
}

// awaitInspect waits until a part of what Docker knows of a container is as wanted.
func (b *engine) awaitInspect(t *testing.T, name, format, want string) {
	t.Helper()
	got := ""
	if !bed.Await(host.Patience, func() bool { got = b.inspect(t, name, format); return got == want }) {
		t.Fatalf("%s of %s = %q, want %q", format, name, got, want)
	}
}

// sh runs a script in the place and gives what it wrote.
func (b *engine) sh(t *testing.T, script string) string {
	t.Helper()
	return strings.TrimSpace(b.Place.Run(t, "bash", "-ec", script))
}

// fetch waits until a server that the place reaches answers for /f with the page.
func (b *engine) fetch(t *testing.T, address, port string) {
	t.Helper()
	const want = "page"
	var got []byte
	if !await(func() bool {
		got, _ = b.Place.Command(t.Context(), "bash", "-ec",
			"exec 3<>/dev/tcp/"+address+"/"+port+`; printf 'GET /f HTTP/1.0\r\n\r\n' >&3; tail -n 1 <&3`).CombinedOutput()
		return strings.TrimSpace(string(got)) == want
	}) {
		t.Errorf("port %s of %s gives %q, want %q", port, address, got, want)
	}
}

// terminal runs Docker's command line on a terminal of its own.
func (b *engine) terminal(t *testing.T, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	r := host.OnTerminal(t, b.Docker(ctx, args...), nil)
	if r.Code != 0 {
		t.Fatalf("docker %s: exit %d\n%s", strings.Join(args, " "), r.Code, r.Stdout)
	}
	return r.Stdout
}
