// SPDX-License-Identifier: Apache-2.0

package bootstrap_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"cloister/tests/host"
)

// daemon is a real containerd that runs the fake shim.
type daemon struct {
	*host.Containerd
	shim, rootfs string
}

func startContainerd(t *testing.T, version host.Version, mode string) daemon {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	p := host.New(t)
	d := daemon{shim: self, rootfs: filepath.Join(p.Dir, "rootfs")}
	if err := os.Mkdir(d.rootfs, 0o755); err != nil {
		t.Fatal(err)
	}
	d.Containerd = p.StartContainerd(t, host.Options{Version: version, Env: []string{fakeEnv + "=" + mode, "TMPDIR=" + p.Dir}})
	return d
}

func (d daemon) run(t *testing.T, id string, flags ...string) host.Result {
	t.Helper()
	args := append([]string{"run", "--runtime", d.shim, "--rootfs"}, flags...)
	return d.Run(t, append(args, d.rootfs, id, "true")...)
}

// checkClean waits until no daemon and no socket is left.
func (d daemon) checkClean(t *testing.T) {
	t.Helper()
	if left := host.Await(host.Patience, func() string {
		left := d.shims(t)
		sockets, _ := filepath.Glob(d.Place.Path("/run/containerd/s/*"))
		bundles, _ := filepath.Glob(d.Place.Path("/run/containerd/io.containerd.runtime.v2.task/default/*"))
		if len(left)+len(sockets)+len(bundles) == 0 {
			return ""
		}
		return fmt.Sprintf("processes %v, sockets %v, bundles %v", left, sockets, bundles)
	}); left != "" {
		t.Fatalf("left: %s", left)
	}
}

func (d daemon) shims(t *testing.T) map[int]string {
	t.Helper()
	found := map[int]string{}
	for pid, line := range d.Place.Processes(t) {
		if strings.HasPrefix(line, d.shim+" ") {
			found[pid] = line
		}
	}
	return found
}

// pids are the pids that containerd has for its tasks, which the fake shim gives as its own.
func (d daemon) pids(t *testing.T) map[string]string {
	t.Helper()
	found := map[string]string{}
	for line := range strings.Lines(d.Must(t, "task", "ls")) {
		if f := strings.Fields(line); len(f) == 3 && f[0] != "TASK" {
			found[f[0]] = f[1] + " " + f[2]
		}
	}
	return found
}

func TestContainerd(t *testing.T) {
	for _, version := range []host.Version{host.Distribution, host.Current} {
		t.Run(string(version), func(t *testing.T) {
			d := startContainerd(t, version, "serve")
			t.Run("run", func(t *testing.T) { testRun(t, d) })
			t.Run("group", func(t *testing.T) { testGroup(t, d) })
			t.Run("restart", func(t *testing.T) { testRestart(t, d) })
			t.Run("crash", func(t *testing.T) { testCrash(t, d) })
		})
	}
}

func testRun(t *testing.T, d daemon) {
	t.Helper()
	r := d.run(t, "hello", "--rm")
	if r.Code != 7 || !strings.Contains(r.Stdout, "group=hello bundle=/run/containerd/io.containerd.runtime.v2.task/default/hello") ||
		!strings.Contains(r.Stdout, "leader=true dir=/") {
		t.Errorf("ctr run = %+v, want the facts of a daemon and exit status 7", r)
	}
	d.checkClean(t)
	log, err := os.ReadFile(d.LogFile)
	if err != nil || !strings.Contains(string(log), "Task/Create") || !strings.Contains(string(log), "runtime=io.containerd.fake.v2") {
		t.Errorf("containerd's log does not have the daemon's lines (%v)", err)
	}
}

func testGroup(t *testing.T, d daemon) {
	t.Helper()
	for _, id := range []string{"sleep-pod", "sleep-web"} {
		if r := d.run(t, id, "-d", "--annotation", "io.kubernetes.cri.sandbox-id=sleep-pod"); r.Code != 0 {
			t.Fatalf("ctr run %s = %+v", id, r)
		}
	}
	pids := d.pids(t)
	if pids["sleep-pod"] != pids["sleep-web"] || !strings.HasSuffix(pids["sleep-pod"], " RUNNING") || len(d.shims(t)) != 1 {
		t.Errorf("tasks %v in daemons %v: want both in one", pids, d.shims(t))
	}
	for _, id := range []string{"sleep-web", "sleep-pod"} {
		d.end(t, id)
	}
	d.checkClean(t)
}

// end kills and deletes a task and its container.
func (d daemon) end(t *testing.T, id string) {
	t.Helper()
	d.Must(t, "task", "kill", "-s", "KILL", id)
	// 2.4's ctr warns about the status, 1.6's exits with it.
	if r := d.Run(t, "task", "delete", id); r.Code != 137 && !strings.Contains(r.Stderr, "exit code 137") {
		t.Errorf("ctr task delete %s = %+v, want 137", id, r)
	}
	d.Must(t, "container", "delete", id)
}

// testRestart restarts containerd, gracefully and not: it finds the daemon again.
func testRestart(t *testing.T, d daemon) {
	t.Helper()
	if r := d.run(t, "sleep-on", "-d"); r.Code != 0 {
		t.Fatalf("ctr run = %+v", r)
	}
	before := d.pids(t)
	for _, signal := range []string{"TERM", "KILL"} {
		d.Stop(t, signal)
		d.Start(t)
		if after := d.pids(t); after["sleep-on"] != before["sleep-on"] || after["sleep-on"] == "" {
			t.Errorf("after %s: tasks %v, want %v", signal, after, before)
		}
	}
	testMounts(t, d)
	testEventWaits(t, d)
	if r := d.Run(t, "task", "delete", "sleep-on"); r.Code != 143 && !strings.Contains(r.Stderr, "exit code 143") {
		t.Errorf("ctr task delete = %+v, want 143", r)
	}
	d.Must(t, "container", "delete", "sleep-on")
	d.checkClean(t)
}

// testMounts mounts something on the host after the daemon was started: the daemon sees it.
func testMounts(t *testing.T, d daemon) {
	t.Helper()
	dir := filepath.Join(d.Place.Dir, "later")
	d.Place.Run(t, "mkdir", "-p", dir)
	d.Place.Run(t, "mount", "-t", "tmpfs", "later", dir)
	defer d.Place.Run(t, "umount", dir)
	for pid := range d.shims(t) {
		if mounts := d.Place.Run(t, "cat", fmt.Sprintf("/proc/%d/mountinfo", pid)); !strings.Contains(mounts, " "+dir+" ") {
			t.Errorf("the daemon does not see a later mount:\n%s", mounts)
		}
	}
}

// testEventWaits ends the task while containerd is away: containerd gets the event when it is back.
func testEventWaits(t *testing.T, d daemon) {
	t.Helper()
	d.Stop(t, "TERM")
	sockets, err := filepath.Glob(d.Place.Path("/run/containerd/s/*"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("sockets %v, %v, want one", sockets, err)
	}
	if _, err := connect(t, sockets[0]).Kill(t.Context(), &taskapi.KillRequest{ID: "sleep-on", Signal: 15}); err != nil {
		t.Fatal(err)
	}
	// 2.4 tells of events only at the level below.
	config := filepath.Join(d.Place.Dir, "containerd.toml")
	text, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(config, []byte(strings.Replace(string(text), `"debug"`, `"trace"`, 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(d.LogFile)
	if err != nil {
		t.Fatal(err)
	}
	d.Start(t)
	if missing := host.Await(host.Patience, func() string {
		log, err := os.ReadFile(d.LogFile)
		if err != nil {
			return err.Error()
		}
		if since := string(log[len(before):]); strings.Contains(since, "event forwarded") && strings.Contains(since, "topic=/tasks/exit") {
			return ""
		}
		return "no such line"
	}); missing != "" {
		t.Fatalf("containerd did not get the task's exit: %s", missing)
	}
}

// testCrash kills the daemon: containerd calls delete, and its answer is the task's end.
func testCrash(t *testing.T, d daemon) {
	t.Helper()
	if r := d.run(t, "sleep-bad", "-d"); r.Code != 0 {
		t.Fatalf("ctr run = %+v", r)
	}
	for pid := range d.shims(t) {
		d.Place.Run(t, "kill", "-KILL", fmt.Sprint(pid))
	}
	d.checkClean(t)
	if data, err := os.ReadFile(filepath.Join(d.Place.Dir, "deleted-sleep-bad")); err != nil ||
		!strings.HasSuffix(string(data), "/default/sleep-bad") {
		t.Errorf("delete was not called with the bundle: %q, %v", data, err)
	}
	d.Must(t, "container", "delete", "sleep-bad")
}

// TestContainerdShowsTheDaemonsError has a daemon that cannot serve: the user reads the reason.
func TestContainerdShowsTheDaemonsError(t *testing.T) {
	for _, version := range []host.Version{host.Distribution, host.Current} {
		t.Run(string(version), func(t *testing.T) {
			d := startContainerd(t, version, "refuse")
			if r := d.run(t, "hello", "--rm"); r.Code == 0 || !strings.Contains(r.Stderr, "kvm: /dev/kvm is not readable") {
				t.Errorf("ctr run = %+v, want the reason", r)
			}
			d.checkClean(t)
		})
	}
}
