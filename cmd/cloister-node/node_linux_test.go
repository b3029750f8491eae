// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// fake is a node in a folder: what its commands were, and what some of them say.
type fake struct {
	node
	commands []string
	says     map[string]string // part of a command -> its output
	fails    map[string]bool   // part of a command
	labelled map[string]string
}

func newFake(t *testing.T) *fake {
	t.Helper()
	dir, err := os.MkdirTemp("", "n-") //nolint:usetesting // a socket's path is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	says := map[string]string{"--dry-run": "+ runtime\n(not written: --dry-run) -> restart", " version": "cloister 1.2.0+changes\n"}
	f := &fake{says: says, fails: map[string]bool{}}
	f.node = node{
		root: filepath.Join(dir, "root"), payload: filepath.Join(dir, "payload"), settings: filepath.Join(dir, "settings"),
		engine: "/etc/containerd/config.toml", restart: "restart it", socket: "/run/c.sock", name: "n1",
		labels: f, out: io.Discard, shell: f.run, pause: time.Millisecond,
	}
	f.write(t, f.payload, "bin/cloister", "tool")
	f.write(t, f.payload, "bin/containerd-shim-cloister-v2", "shim")
	f.write(t, f.payload, "guest/small/kernel", "kernel")
	f.write(t, f.settings, "sizes.toml", "[sizing]\n")
	f.write(t, f.root, "run/x", "")
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "unix", f.path(f.socket))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return f
}

func (f *fake) write(t *testing.T, top, name, text string) {
	t.Helper()
	path := filepath.Join(top, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
}

func (f *fake) run(_ context.Context, _, script string) (string, error) {
	f.commands = append(f.commands, script)
	for part := range f.fails {
		if strings.Contains(script, part) {
			return "  fail  QEMU  not found\n         -> install it\n", errors.New("exit status 1")
		}
	}
	for part, said := range f.says {
		if strings.Contains(script, part) {
			return said, nil
		}
	}
	return "", nil
}

func (f *fake) Label(_ context.Context, labels map[string]string) error {
	f.labelled = labels
	return nil
}

// ran tells whether a command with that part was run.
func (f *fake) ran(part string) bool {
	return slices.ContainsFunc(f.commands, func(c string) bool { return strings.Contains(c, part) })
}

// files lists the node's, with what links lead to.
func (f *fake) files(t *testing.T) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(f.root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || entry.Type() == fs.ModeSocket {
			return err
		}
		name := strings.TrimPrefix(path, f.root)
		if leads, err := os.Readlink(path); err == nil {
			name += " -> " + leads
		}
		names = append(names, name)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

func TestInstallPutsEverythingAndLabelsLast(t *testing.T) {
	f := newFake(t)
	if err := f.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	version, err := digest(f.payload)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"/etc/cloister/config.d/10-node.cluster.toml", "/etc/cloister/config.d/50-sizes.cluster.toml",
		"/opt/cloister/" + version + "/bin/cloister", "/opt/cloister/" + version + "/bin/containerd-shim-cloister-v2",
		"/opt/cloister/" + version + "/guest/small/kernel", "/opt/cloister/current -> " + version, "/run/x",
		"/usr/local/bin/cloister -> /opt/cloister/current/bin/cloister",
		"/usr/local/bin/containerd-shim-cloister-process-v2 -> /opt/cloister/current/bin/containerd-shim-cloister-v2",
		"/usr/local/bin/containerd-shim-cloister-v2 -> /opt/cloister/current/bin/containerd-shim-cloister-v2",
	}
	if diff := cmp.Diff(want, f.files(t)); diff != "" {
		t.Errorf("files (-want +got):\n%s", diff)
	}
	if want := map[string]string{"io.cloister/runtime": "true", "io.cloister/version": "1.2.0_changes"}; !cmp.Equal(f.labelled, want) {
		t.Errorf("labels = %v, want %v", f.labelled, want)
	}
	if !f.ran("config dump") || !f.ran("restart it") || f.ran("policy") {
		t.Errorf("commands: %q, want the config tried, one restart, no policy without SELinux", f.commands)
	}
}

// TestInstallNamesTheDriver: a node with SELinux that is booted without it starts no sandbox. Its
// check fails without the policy module.
func TestInstallNamesTheDriver(t *testing.T) {
	for _, want := range []string{"auto", "selinux"} {
		f := newFake(t)
		if want == "selinux" {
			f.write(t, f.root, "sys/fs/selinux/enforce", "1")
		}
		if err := f.install(t.Context()); err != nil {
			t.Fatal(err)
		}
		policy := slices.IndexFunc(f.commands, func(c string) bool { return strings.HasSuffix(c, " policy install") })
		check := slices.IndexFunc(f.commands, func(c string) bool { return strings.HasSuffix(c, " check") })
		if check < 0 || (policy >= 0) != (want == "selinux") || policy > check {
			t.Errorf("%s: commands %q, want the policy before the check that needs it", want, f.commands)
		}
		text, err := os.ReadFile(f.path(configs + "/10-node" + configSuffix))
		if err != nil || !strings.Contains(string(text), fmt.Sprintf("mac = %q\n", want)) {
			t.Errorf("config = %s, %v, want mac %s", text, err, want)
		}
	}
}

func TestInstallAgainChangesAndRestartsNothing(t *testing.T) {
	f := newFake(t)
	if err := f.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := f.files(t)
	f.commands, f.says["--dry-run"] = nil, "nothing is to be changed"
	if err := f.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if f.ran("restart it") {
		t.Errorf("commands: %q, want no restart", f.commands)
	}
	if diff := cmp.Diff(before, f.files(t)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
}

func TestInstallRestartsWhatACrashLeftUnrestarted(t *testing.T) {
	f := newFake(t)
	f.write(t, f.root, pending, "")
	f.says["--dry-run"] = "nothing is to be changed"
	if err := f.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	if !f.ran("restart it") {
		t.Errorf("commands: %q, want a restart", f.commands)
	}
	if _, err := os.Stat(f.path(pending)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("%s: %v, want it gone", pending, err)
	}
}

func TestInstallStopsWithoutALabel(t *testing.T) {
	for _, tt := range []struct{ name, fails, want, undone string }{
		{"check", " check", "lacks what cloister needs: fail  QEMU  not found; -> install it", ""},
		{"config", "config dump", "which was taken out again", "--remove"},
		{"restart", "restart it", "which was taken out again", "--remove"},
		{"policy", "policy install", "policy install", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFake(t)
			f.write(t, f.root, "sys/fs/selinux/enforce", "1")
			f.fails[tt.fails] = true
			err := f.install(t.Context())
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("install = %v, want %q in it", err, tt.want)
			}
			if f.labelled != nil {
				t.Errorf("the node is labelled %v", f.labelled)
			}
			if tt.undone != "" && !f.ran(tt.undone) {
				t.Errorf("commands: %q, want %q", f.commands, tt.undone)
			}
		})
	}
}

func TestInstallRefusesAnotherInstallation(t *testing.T) {
	for _, name := range []string{"usr/bin/containerd-shim-cloister-v2", "usr/local/bin/cloister"} {
		f := newFake(t)
		f.write(t, f.root, name, "")
		if err := f.install(t.Context()); err == nil || !strings.Contains(err.Error(), "/"+name) {
			t.Errorf("install beside /%s = %v", name, err)
		}
		if len(f.commands) > 0 {
			t.Errorf("commands: %q", f.commands)
		}
	}
}

func TestInstallTakesAwayVersionsWithoutProcesses(t *testing.T) {
	f := newFake(t)
	if err := f.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.write(t, f.payload, "bin/cloister", "the next tool")
	if err := os.Remove(filepath.Join(f.settings, "sizes.toml")); err != nil {
		t.Fatal(err)
	}
	if err := f.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	version, err := digest(f.payload)
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range f.files(t) {
		old := strings.HasPrefix(name, folder) && !strings.HasPrefix(name, folder+"/"+version) && name != current+" -> "+version
		if old || strings.Contains(name, "sizes") {
			t.Errorf("%s is still there", name)
		}
	}
}

func TestRemoveTakesEverythingBack(t *testing.T) {
	f := newFake(t)
	before := f.files(t)
	if err := f.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.says["--remove"] = "written -> restart"
	f.commands = nil
	if err := f.remove(t.Context()); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, f.files(t)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
	if f.labelled["io.cloister/runtime"] != "" || !f.ran("restart it") {
		t.Errorf("labels %v, commands %q", f.labelled, f.commands)
	}
	if err := f.remove(t.Context()); err != nil {
		t.Errorf("remove again: %v", err)
	}
}

func TestRemoveWaitsForSandboxes(t *testing.T) {
	f := newFake(t)
	if err := f.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	before := f.files(t)
	f.says["ps --all --quiet"] = "k8s.io/abc\n"
	var said strings.Builder
	f.out = &said
	ctx, cancel := context.WithCancel(t.Context())
	f.shell = func(ctx context.Context, root, script string) (string, error) {
		if len(f.commands) > 20 {
			cancel() // the DaemonSet is deleted meanwhile
		}
		return f.run(ctx, root, script)
	}
	err := f.remove(ctx)
	if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "node n1 still has 1 sandboxes") {
		t.Errorf("remove = %v, want that it was cancelled", err)
	}
	if got := said.String(); strings.Count(got, "sandboxes on node n1: 1 (k8s.io/abc)") != 1 {
		t.Errorf("remove said %q, want the sandbox once", got)
	}
	if f.labelled["io.cloister/runtime"] != "" {
		t.Error("the node is still labelled, and takes new pods")
	}
	if diff := cmp.Diff(before, f.files(t)); diff != "" {
		t.Errorf("files (-before +after):\n%s", diff)
	}
}

func TestRemoveWaitsForBuilderOfTemplate(t *testing.T) {
	f := newFake(t)
	if err := f.install(t.Context()); err != nil {
		t.Fatal(err)
	}
	f.write(t, f.root, "var/lib/cloister/templates/digests.json", "")
	builder, err := os.Open(f.path("/var/lib/cloister/templates"))
	if err != nil {
		t.Fatal(err)
	}
	defer builder.Close()
	if err := unix.Flock(int(builder.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	f.says["--remove"] = "written -> restart"
	ctx, cancel := context.WithCancel(t.Context())
	f.out = writerFunc(func(said []byte) (int, error) {
		if strings.Contains(string(said), "a template is being built on node n1") {
			cancel() // the DaemonSet is deleted meanwhile
		}
		return len(said), nil
	})
	if err := f.remove(ctx); err == nil || !strings.Contains(err.Error(), "node n1 still builds a template") {
		t.Errorf("remove beside a builder = %v, want that it waits", err)
	}
	if _, err := os.Stat(f.path("/var/lib/cloister/templates/digests.json")); err != nil {
		t.Errorf("the builder's folder: %v", err)
	}
	if err := builder.Close(); err != nil {
		t.Fatal(err)
	}
	if err := f.remove(t.Context()); err != nil {
		t.Errorf("remove after the build: %v", err)
	}
	if _, err := os.Stat(f.path("/var/lib/cloister")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the folder of templates: %v", err)
	}
}

// writerFunc is a function as a writer.
type writerFunc func([]byte) (int, error)

func (w writerFunc) Write(text []byte) (int, error) { return w(text) }

func TestLabelPatchesTheNode(t *testing.T) {
	var got, body string
	status := http.StatusOK
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		text, _ := io.ReadAll(r.Body)
		got = fmt.Sprintln(r.Method, r.URL.Path, r.Header.Get("Content-Type"), r.Header.Get("Authorization"))
		body = string(text)
		w.WriteHeader(status)
		fmt.Fprint(w, "no right to do this")
	}))
	defer server.Close()
	token := filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte("secret\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &api{client: server.Client(), url: server.URL + "/api/v1/nodes/n1", token: token}
	if err := a.Label(t.Context(), map[string]string{"a": "b", "c": ""}); err != nil {
		t.Fatal(err)
	}
	if want := "PATCH /api/v1/nodes/n1 application/merge-patch+json Bearer secret\n"; got != want {
		t.Errorf("request = %q, want %q", got, want)
	}
	if want := `{"metadata":{"labels":{"a":"b","c":null}}}`; body != want {
		t.Errorf("body = %s, want %s", body, want)
	}
	status = http.StatusForbidden
	if err := a.Label(t.Context(), nil); err == nil || !strings.Contains(err.Error(), "no right to do this") {
		t.Errorf("Label = %v, want the server's message", err)
	}
}
