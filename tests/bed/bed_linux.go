// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"context"
	"fmt"
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
	"cloister/tests/leaks"
	"cloister/tests/testenv"
)

// The runtimes that are compared.
const (
	Cloister = "io.containerd.cloister.v2"
	Runc     = "io.containerd.runc.v2"
)

// Image is the image that every bed has.
const Image = images.BusyboxName

// Bed is a daemon in a private place with the busybox image in it.
type Bed struct {
	*host.Containerd
	// Namespace is containerd's, and no other bed's.
	Namespace string
	// Dir is a folder on disk under the same name in the place and outside of it.
	Dir string
	// Runtime is what Args asks for.
	Runtime string
	env     []string
}

var busybox = sync.OnceValues(func() (v1.Image, error) {
	program, err := exec.LookPath("busybox")
	if err != nil {
		return nil, err
	}
	return images.Busybox(context.Background(), program)
})

// New starts a daemon for cloister's containers that lasts as long as the test.
func New(t testing.TB, o host.Options) *Bed {
	t.Helper()
	return NewFor(t, Cloister, o)
}

// NewFor is New for any runtime. Containers without a guest need less of the machine: cloister's of
// class process need the shim and crun, another runtime's nothing of cloister.
func NewFor(t testing.TB, runtime string, o host.Options) *Bed {
	t.Helper()
	switch {
	case runtime == Cloister && o.Class != "process":
		testenv.NeedSandbox(t)
	case runtime == Cloister:
		testenv.NeedShim(t)
		testenv.NeedTool(t, testenv.Crun)
		fallthrough
	default:
		testenv.NeedBusybox(t)
		testenv.NeedOverlay(t)
	}
	img, err := busybox()
	if err != nil {
		t.Fatal(err)
	}
	place := host.New(t)
	b := &Bed{Namespace: filepath.Base(place.Dir), Dir: filepath.Join(place.Dir, "bed"), Runtime: runtime}
	temp := filepath.Join(b.Dir, "tmp")
	if err := os.MkdirAll(temp, 0o755); err != nil {
		t.Fatal(err)
	}
	// Temporary files get a folder of their own, so that Look can tell who has left one.
	b.env = []string{"CONTAINERD_NAMESPACE=" + b.Namespace, "TMPDIR=" + temp}
	o.Env = append(o.Env, b.env...)
	// The parent that containers leave behind, as with runc. It is registered before any
	// container's cleanup, and so runs after all of them, when it is empty.
	t.Cleanup(func() { leaks.RemoveCgroups(t, b.Namespace) })
	b.Containerd = place.StartContainerd(t, o)
	file := filepath.Join(b.Dir, "busybox.tar")
	if err := images.Save(file, map[string]v1.Image{Image: img}); err != nil {
		t.Fatal(err)
	}
	b.Must(t, "images", "import", file)
	return b
}

// Upgrade is that of host.Containerd, with the bed's environment for the new daemon.
func (b *Bed) Upgrade(t testing.TB, o host.Options) {
	t.Helper()
	o.Env = append(o.Env, b.env...)
	b.Containerd.Upgrade(t, o)
}

// Look lists what of sandboxes is on the bed's host now. What containerd's mount manager has
// mounted is containerd's: it lets go of a client's mounts when it collects garbage.
func (b *Bed) Look(t testing.TB) leaks.Snapshot {
	t.Helper()
	// In this order: records, sockets of shims, bundles, named network namespaces, the registry and
	// the journals, temporary files.
	found := leaks.Look(t, leaks.Host{Place: b.Place, CgroupParent: b.Namespace, Folders: []string{
		"/run/cloister", "/run/containerd/s", "/run/containerd/io.containerd.runtime.v2.task/" + b.Namespace, "/run/netns",
		filepath.Join(b.Place.Dir, "cloister"), filepath.Join(b.Dir, "tmp"),
	}})
	found[leaks.Mount] = slices.DeleteFunc(found[leaks.Mount], func(line string) bool {
		return strings.HasPrefix(line, "/run/containerd/io.containerd.mount-manager.v1.bolt/")
	})
	return found
}

// NothingLeft waits until the host is as it was before, and says what is not. It waits because
// shims and containerd go on cleaning up after they have answered.
func (b *Bed) NothingLeft(t testing.TB, before leaks.Snapshot) {
	t.Helper()
	var left []string
	if Await(host.Patience, func() bool {
		left = leaks.Compare(before, b.Look(t))
		return len(left) == 0
	}) {
		return
	}
	t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
}

// Await asks until the answer is yes or the time is over. Tests wait for events with it and never
// for a fixed time: a busy host only makes them slower.
func Await(most time.Duration, done func() bool) bool {
	deadline := time.After(most)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-deadline:
			return false
		case <-tick.C:
		}
	}
	return true
}

// Args gives the arguments of ctr run: options, the image, the id, the command.
func (b *Bed) Args(id string, options []string, command ...string) []string {
	args := append([]string{"run", "--runtime", b.Runtime}, options...)
	return append(append(args, Image, id), command...)
}

// Start starts a container that is taken away when the test ends.
func (b *Bed) Start(t testing.TB, id string, options []string, command ...string) {
	t.Helper()
	if len(command) == 0 {
		command = []string{"sleep", "1000"}
	}
	t.Cleanup(func() { b.Remove(t, id) })
	b.Must(t, b.Args(id, append([]string{"--detach"}, options...), command...)...)
}

// Remove kills a container and takes it away; what is gone already does not matter.
func (b *Bed) Remove(t testing.TB, id string) {
	t.Helper()
	b.run(t, host.Patience, "task", "kill", "--signal", "KILL", id)
	b.run(t, host.Patience, "task", "delete", "--force", id)
	b.run(t, host.Patience, "containers", "delete", id)
}

// run runs ctr also when the test's own context is over.
func (b *Bed) run(t testing.TB, most time.Duration, args ...string) host.Result {
	t.Helper()
	ctx, cancel := context.WithTimeoutCause(context.WithoutCancel(t.Context()), most, fmt.Errorf("not over after %s", most))
	defer cancel()
	return b.Finish(ctx, t, b.Ctr(ctx, args...))
}

// Within runs ctr to its end, which must come within most.
func (b *Bed) Within(t testing.TB, most time.Duration, args ...string) host.Result {
	t.Helper()
	return b.run(t, most, args...)
}

// Exec runs a command in a running container to its end.
func (b *Bed) Exec(t testing.TB, id, execID string, command ...string) host.Result {
	t.Helper()
	return b.Run(t, append([]string{"task", "exec", "--exec-id", execID, id}, command...)...)
}

// Status gives the state that ctr shows for a task, and "" for none.
func (b *Bed) Status(t testing.TB, id string) string {
	t.Helper()
	for line := range strings.Lines(b.Must(t, "task", "list")) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == id {
			return fields[2]
		}
	}
	return ""
}

// AwaitStatus waits until ctr shows a task in that state.
func (b *Bed) AwaitStatus(t testing.TB, id, want string) {
	t.Helper()
	got := ""
	if !Await(host.Patience, func() bool { got = b.Status(t, id); return got == want }) {
		t.Fatalf("status of %s = %q, want %q", id, got, want)
	}
}

// Processes gives the pids in the place of the processes of container id whose command line has all
// words in it. QEMU has the sandbox's id in its arguments; a shim has "-id ID".
func (b *Bed) Processes(t testing.TB, words ...string) []int {
	t.Helper()
	var found []int
next:
	for pid, line := range b.Place.Processes(t) {
		for _, w := range words {
			if !strings.Contains(line+" ", w) {
				continue next
			}
		}
		found = append(found, pid)
	}
	return found
}

// Shim gives the pid, in the place, of the daemon that serves container id.
func (b *Bed) Shim(t testing.TB, id string) int {
	t.Helper()
	return b.one(t, "shim of "+id, b.Processes(t, "containerd-shim", "-id "+id+" ", " serve "))
}

// Marked gives the pid of the helper of a sandbox with that program's name.
func (b *Bed) Marked(t testing.TB, id, program string) int {
	t.Helper()
	var found []int
	for _, pid := range b.Processes(t, program) {
		env, err := os.ReadFile(b.Place.Path(fmt.Sprintf("/proc/%d/environ", pid)))
		if err == nil && strings.Contains(string(env), "CLOISTER_SANDBOX=/run/cloister/"+b.Namespace+"/"+id+"\x00") {
			found = append(found, pid)
		}
	}
	return b.one(t, program+" of "+id, found)
}

func (b *Bed) one(t testing.TB, what string, found []int) int {
	t.Helper()
	if len(found) == 0 {
		t.Fatalf("%s: no such process", what)
	}
	// A forked child has the command line of its parent until it executes: the lowest pid is the
	// parent.
	first := found[0]
	for _, pid := range found {
		first = min(first, pid)
	}
	return first
}

// Kill sends SIGKILL to a process of the place and waits until it is gone.
func (b *Bed) Kill(t testing.TB, pid int) {
	t.Helper()
	b.Place.Kill(t, pid)
}
