// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"bufio"
	"context"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"cloister/tests/host"
	"cloister/tests/images"
	"cloister/tests/testenv"
)

const (
	cloister = "io.containerd.cloister.v2"
	image    = images.BusyboxName
)

// runtimeName is the runtime under test.
func runtimeName() string {
	if name := os.Getenv("CLOISTER_TEST_RUNTIME"); name != "" {
		return name
	}
	return cloister
}

// plain tells whether the tests are about cloister's containers of class process.
func plain() bool { return os.Getenv("CLOISTER_TEST_CLASS") == "process" }

// isCloister tells whether the tests are about cloister's machines and not about a peer or plain
// containers.
func isCloister() bool { return runtimeName() == cloister && !plain() }

// bed is a daemon in a private place with the busybox image in it.
type bed struct {
	*host.Containerd
	snapshotter string
}

var archive = sync.OnceValues(func() ([]byte, error) {
	program, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	img, err := images.Busybox(context.Background(), program)
	if err != nil {
		return nil, err
	}
	file, err := os.CreateTemp("", "busybox-*.tar")
	if err != nil {
		return nil, err
	}
	defer os.Remove(file.Name())
	if err := images.Save(file.Name(), map[string]v1.Image{image: img}); err != nil {
		return nil, err
	}
	return io.ReadAll(file)
})

// newBed starts a daemon that lasts as long as the test and, at its end, looks for what was left
// behind.
func newBed(t *testing.T, o host.Options) *bed {
	t.Helper()
	testenv.NeedBusybox(t)
	testenv.NeedOverlay(t)
	if isCloister() {
		testenv.NeedShim(t)
		testenv.NeedGuest(t)
		testenv.NeedQEMU(t)
		testenv.NeedVirtiofsd(t)
	}
	if plain() {
		testenv.NeedShim(t)
		testenv.NeedTool(t, testenv.Crun)
		o.Class = "process"
	}
	data, err := archive()
	if err != nil {
		t.Fatal(err)
	}
	b := &bed{Containerd: host.New(t).StartContainerd(t, o)}
	file := filepath.Join(b.Place.Dir, "busybox.tar")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	b.Must(t, "images", "import", file)
	t.Cleanup(func() {
		if !t.Failed() {
			b.nothingLeft(t)
		}
	})
	return b
}

// nothingLeft waits until no process but the daemon is in the place, and no mount and no folder of
// sandboxes.
func (b *bed) nothingLeft(t *testing.T) {
	t.Helper()
	left := host.Await(host.Patience, func() string {
		var left []string
		for _, line := range b.Place.Processes(t) {
			if !strings.Contains(line, "containerd --config") && !strings.HasPrefix(line, "nsenter") {
				left = append(left, line)
			}
		}
		mounts, err := os.ReadFile(b.Place.Path("/proc/1/mounts"))
		if err != nil {
			left = append(left, err.Error())
		}
		for line := range strings.Lines(string(mounts)) {
			if strings.Contains(line, " /run/cloister") || strings.Contains(line, "io.containerd.runtime.v2.task") {
				left = append(left, "mount "+strings.TrimSpace(line))
			}
		}
		for _, pattern := range []string{"/run/cloister/*/*", "/run/containerd/io.containerd.runtime.v2.task/*/*"} {
			names, _ := filepath.Glob(b.Place.Path(pattern))
			left = append(left, names...)
		}
		return strings.Join(left, "\n")
	})
	if left != "" {
		t.Errorf("left behind:\n%s", left)
	}
}

// flags gives the options every run needs.
func (b *bed) flags() []string {
	flags := []string{"--runtime", runtimeName()}
	if b.snapshotter != "" {
		flags = append(flags, "--snapshotter", b.snapshotter)
	}
	return flags
}

// args gives the arguments of ctr run: options, the image, the id, the command.
func (b *bed) args(id string, options []string, command ...string) []string {
	args := append([]string{"run"}, b.flags()...)
	args = append(args, options...)
	return append(append(args, image, id), command...)
}

// run runs a container to its end, and takes it away.
func (b *bed) run(t *testing.T, id string, options []string, command ...string) host.Result {
	t.Helper()
	return b.Run(t, b.args(id, append([]string{"--rm"}, options...), command...)...)
}

// want runs a container to its end and compares what it wrote to its standard output, less blanks
// around it.
func (b *bed) want(t *testing.T, id, want string, options []string, command ...string) {
	t.Helper()
	r := b.run(t, id, options, command...)
	if got := strings.TrimSpace(r.Stdout); got != want || r.Code != 0 {
		t.Errorf("%s: %s = %q, exit %d, want %q\nstderr: %s", id, strings.Join(command, " "), got, r.Code, want, r.Stderr)
	}
}

// start starts a container that stays until the test ends.
func (b *bed) start(t *testing.T, id string, options []string, command ...string) {
	t.Helper()
	if len(command) == 0 {
		command = []string{"sleep", "1000"}
	}
	t.Cleanup(func() { b.remove(t, id) })
	b.Must(t, b.args(id, append([]string{"--detach"}, options...), command...)...)
}

// remove kills a container and takes it away; what is gone already does not matter.
func (b *bed) remove(t *testing.T, id string) {
	t.Helper()
	// The test's own context is over when this runs as a clean-up.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), host.Patience)
	defer cancel()
	b.Finish(ctx, t, b.Ctr(ctx, "task", "kill", "--signal", "KILL", id))
	b.Finish(ctx, t, b.Ctr(ctx, "task", "delete", "--force", id))
	b.Finish(ctx, t, b.Ctr(ctx, "containers", "delete", id))
}

// exec runs a command in a running container to its end.
func (b *bed) exec(t *testing.T, id, execID string, command ...string) host.Result {
	t.Helper()
	return b.Run(t, append([]string{"task", "exec", "--exec-id", execID, id}, command...)...)
}

// say runs a shell script in the running container c and compares what it wrote, less blanks around
// it: a machine of its own for each would take long.
func (b *bed) say(t *testing.T, name, want, script string) {
	t.Helper()
	r := b.exec(t, "c", name, "sh", "-c", script)
	if got := strings.TrimSpace(r.Stdout); got != want || r.Code != 0 {
		t.Errorf("%s: %s = %q, exit %d, want %q\nstderr: %s", name, script, got, r.Code, want, r.Stderr)
	}
}

// status gives the state that ctr shows for a task, and "" for none.
func (b *bed) status(t *testing.T, id string) string {
	t.Helper()
	for line := range strings.Lines(b.Must(t, "task", "list")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id {
			return fields[2]
		}
	}
	return ""
}

// awaitStatus waits until ctr shows the state.
func (b *bed) awaitStatus(t *testing.T, id, want string) {
	t.Helper()
	if wrong := host.Await(host.Patience, func() string {
		if got := b.status(t, id); got != want {
			return got + " "
		}
		return ""
	}); wrong != "" {
		t.Fatalf("%s is %s, want %s", id, wrong, want)
	}
}

// event is a line of ctr events.
type event struct {
	topic string
	body  map[string]any
}

// watch gathers events until the test ends; the function it gives returns those so far.
func (b *bed) watch(t *testing.T) func() []event {
	t.Helper()
	cmd := b.Ctr(t.Context(), "events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var events []event
	done := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Cancel()
		<-done
		_ = cmd.Wait()
	})
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if e, ok := parseEvent(lines.Text()); ok {
				mu.Lock()
				events = append(events, e)
				mu.Unlock()
			}
		}
	}()
	seen := func() []event {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(events)
	}
	// ctr says nothing when it has subscribed: make events until one is seen.
	if missing := host.Await(host.Patience, func() string {
		b.Must(t, "namespaces", "label", "default", "probe="+time.Now().String())
		if len(seen()) == 0 {
			return "no event"
		}
		return ""
	}); missing != "" {
		t.Fatal(missing)
	}
	return seen
}

// parseEvent takes apart "date time zone zone namespace topic json".
func parseEvent(line string) (event, bool) {
	head, body, ok := strings.Cut(line, " {")
	fields := strings.Fields(head)
	if !ok || len(fields) < 2 {
		return event{}, false
	}
	e := event{topic: fields[len(fields)-1]}
	return e, json.Unmarshal([]byte("{"+body), &e.body) == nil
}

// topics gives the topics of the events about a container, in their order.
func topics(events []event, id string) []string {
	var found []string
	for _, e := range events {
		if e.body["container_id"] == id && strings.HasPrefix(e.topic, "/tasks/") {
			found = append(found, strings.TrimPrefix(e.topic, "/tasks/"))
		}
	}
	return found
}
