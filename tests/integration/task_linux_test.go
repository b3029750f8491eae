// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"cloister/tests/host"
)

func TestLifecycleEvents(t *testing.T) {
	b := newBed(t, host.Options{})
	events := b.Watch(t)
	b.run(t, "short", nil, "true")
	b.Start(t, "long", nil)
	b.Exec(t, "long", "e", "true")
	b.Must(t, "task", "pause", "long")
	b.Must(t, "task", "resume", "long")
	b.Must(t, "task", "kill", "--signal", "KILL", "long")
	b.AwaitStatus(t, "long", "STOPPED")
	b.wantDeleted(t, "long", 137)
	wants := map[string][]string{
		"short": {"create", "start", "exit", "delete"},
		"long":  {"create", "start", "exec-added", "exec-started", "exit", "paused", "resumed", "exit", "delete"},
	}
	for id, want := range wants {
		if !isCloister() {
			want = want[:len(want)-1] // runc's shim may end before it has sent the last one; ours may not
		}
		if diff := host.Await(host.Patience, func() string {
			got := topics(events(), id)
			return cmp.Diff(want, got[:min(len(got), len(want))])
		}); diff != "" {
			t.Errorf("events of %s (-want +got):\n%s", id, diff)
		}
	}
}

// wantDeleted deletes a stopped task and compares the exit code that ctr shows.
func (b *bed) wantDeleted(t *testing.T, id string, code int) {
	t.Helper()
	if r := b.Run(t, "task", "delete", id); r.Code != 0 || !strings.Contains(r.Stderr, fmt.Sprintf("non-zero exit code %d", code)) {
		t.Errorf("task delete = %+v, want exit code %d", r, code)
	}
}

// clock lets a container set its guest's clock; a peer's would be the host's.
var clock = []string{"--cap-add", "CAP_SYS_TIME"}

// TestPauseAndKill resumes a guest whose clock has gone wrong: it has the host's time again.
func TestPauseAndKill(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", clock, "sh", "-c", "while :; do date +%s.%N >/tmp/now; sleep 0.05; done")
	b.AwaitStatus(t, "c", "RUNNING")
	if isCloister() {
		b.say(t, "wrong", "", "date -s @1 >/dev/null")
	}
	b.Must(t, "task", "pause", "c")
	b.AwaitStatus(t, "c", "PAUSED")
	if r := b.Exec(t, "c", "refused", "true"); r.Code == 0 {
		t.Error("exec in a paused container is not refused")
	}
	b.Must(t, "task", "resume", "c")
	b.AwaitStatus(t, "c", "RUNNING")
	begin := time.Now()
	r := b.Exec(t, "c", "time", "date", "+%s")
	var seconds int64
	// Two seconds: the guest's date is cut to whole ones, and an exec takes its time.
	if _, err := fmt.Sscan(r.Stdout, &seconds); err != nil || seconds < begin.Unix()-2 || seconds > time.Now().Unix()+2 {
		t.Errorf("date in the container = %q, want the host's, %d to %d", r.Stdout, begin.Unix(), time.Now().Unix())
	}
	b.Must(t, "task", "kill", "--signal", "TERM", "c") // process 1 of a pid namespace, no handler: nothing happens
	b.Must(t, "task", "kill", "--signal", "KILL", "c")
	b.AwaitStatus(t, "c", "STOPPED")
}

func TestSignalIsHandled(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil, "sh", "-c", "trap 'exit 5' TERM; touch /tmp/up; while :; do sleep 0.1; done")
	if wrong := host.Await(host.Patience, func() string { return b.Exec(t, "c", "probe", "cat", "/tmp/up").Stderr }); wrong != "" {
		t.Fatal(wrong)
	}
	b.Must(t, "task", "kill", "--signal", "TERM", "c")
	b.AwaitStatus(t, "c", "STOPPED")
	b.wantDeleted(t, "c", 5)
}

func TestKillAll(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil, "sh", "-c", "sleep 1001 & sleep 1002 & wait; exit 3")
	if wrong := host.Await(host.Patience, func() string {
		if out := b.Exec(t, "c", "ps", "ps", "-o", "args").Stdout; strings.Count(out, "\nsleep 100") != 2 {
			return out + " "
		}
		return ""
	}); wrong != "" {
		t.Fatal(wrong)
	}
	b.Must(t, "task", "kill", "--all", "--signal", "KILL", "c")
	b.AwaitStatus(t, "c", "STOPPED")
}

func TestProcesses(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil)
	lines := strings.Fields(b.Must(t, "task", "ps", "c"))
	// PID INFO, then at least one pid that is alive on the host.
	if len(lines) < 4 {
		t.Fatalf("task ps = %q, want a process", lines)
	}
	if _, err := os.Stat(b.Place.Path("/proc/" + lines[2])); err != nil {
		t.Errorf("task ps shows pid %s: %v", lines[2], err)
	}
}

func TestMetrics(t *testing.T) {
	b := newBed(t, host.Options{})
	// The loop takes processor time that the metrics can show.
	b.Start(t, "c", []string{"--memory-limit", fmt.Sprint(128 << 20)}, "sh", "-c",
		"i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; exec sleep 1000")
	var metrics map[string]any
	wrong := host.Await(host.Patience, func() string {
		out := b.Must(t, "task", "metrics", "--format", "json", "c")
		if err := json.Unmarshal([]byte(out), &metrics); err != nil {
			return err.Error() + ": " + out
		}
		for _, part := range []string{"cpu", "memory", "pids"} {
			if metrics[part] == nil {
				return "no " + part + " in " + out
			}
		}
		return ""
	})
	if wrong != "" {
		t.Fatal(wrong)
	}
	if !isCloister() {
		return // the host's cgroup version decides about the form
	}
	memory, _ := metrics["memory"].(map[string]any)
	if limit, _ := memory["usage_limit"].(float64); limit != 128<<20 {
		t.Errorf("memory = %v, want usage_limit %d", memory, 128<<20)
	}
	if usage, _ := memory["usage"].(float64); usage <= 0 || usage > 128<<20 {
		t.Errorf("memory usage = %v", usage)
	}
	cpu, _ := metrics["cpu"].(map[string]any)
	if usec, _ := cpu["usage_usec"].(float64); usec <= 0 {
		t.Errorf("cpu = %v, want usage_usec", cpu)
	}
}

func TestCheckpointIsNotImplemented(t *testing.T) {
	if !isCloister() {
		t.Skip("a peer may have it")
	}
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil)
	if r := b.Run(t, "task", "checkpoint", "c"); r.Code == 0 || !strings.Contains(strings.ToLower(r.Stderr), "not implemented") {
		t.Errorf("task checkpoint = %+v, want not implemented", r)
	}
	if got := b.Status(t, "c"); got != "RUNNING" {
		t.Errorf("the container is %q afterwards", got)
	}
}

func TestLogFile(t *testing.T) {
	b := newBed(t, host.Options{})
	log := filepath.Join(b.Place.Dir, "out.log")
	script := "seq 1000; echo err >&2"
	if !isCloister() {
		// containerd's shim for runc, and so class process, closes the file when stdout ends: what
		// comes on stderr then is lost. So stderr ends first here.
		script = "echo err >&2; exec 2>&-; sleep 2; seq 1000"
	}
	b.Start(t, "c", []string{"--log-uri", "file://" + log}, "sh", "-c", script)
	b.AwaitStatus(t, "c", "STOPPED")
	var text []byte
	wrong := host.Await(host.Patience, func() string {
		var err error
		if text, err = os.ReadFile(log); err != nil {
			return err.Error()
		}
		if strings.Count(string(text), "\n") != 1001 {
			return fmt.Sprintf("%d lines in the log, want 1001", strings.Count(string(text), "\n"))
		}
		return ""
	})
	if wrong != "" {
		t.Error(wrong)
	}
}

// TestLogBinary has a program take the output: fds 3 and 4 are the streams, 5 says that it is
// ready.
func TestLogBinary(t *testing.T) {
	b := newBed(t, host.Options{})
	logger, log := filepath.Join(b.Place.Dir, "logger"), filepath.Join(b.Place.Dir, "binary.log")
	script := "#!/bin/bash\nexec 5>&-\necho $CONTAINER_NAMESPACE/$CONTAINER_ID $1 $2 >" + log +
		"\ncat <&3 >>" + log + " &\ncat <&4 >>" + log + "\nwait\n"
	if err := os.WriteFile(logger, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	b.Start(t, "c", []string{"--log-uri", "binary://" + logger + "?key=value"}, "sh", "-c", "echo out; echo err >&2")
	b.AwaitStatus(t, "c", "STOPPED")
	want := []string{b.Namespace + "/c key value", "err", "out"}
	wrong := host.Await(host.Patience, func() string {
		text, err := os.ReadFile(log)
		if err != nil {
			return err.Error()
		}
		got := strings.Split(strings.TrimSpace(string(text)), "\n")
		slices.Sort(got)
		return cmp.Diff(want, got)
	})
	if wrong != "" {
		t.Errorf("the logger's file (-want +got):\n%s", wrong)
	}
}

// TestRestartOfContainerd has containerd killed and started again while a container runs.
func TestRestartOfContainerd(t *testing.T) {
	for _, signal := range []string{"TERM", "KILL"} {
		t.Run(signal, func(t *testing.T) {
			b := newBed(t, host.Options{})
			b.Start(t, "c", nil, "sh", "-c", "echo mark >/tmp/mark; exec sleep 1000")
			b.Stop(t, signal)
			b.Containerd.Start(t)
			b.AwaitStatus(t, "c", "RUNNING")
			if r := b.Exec(t, "c", "e", "sh", "-c", "until [ -s /tmp/mark ]; do sleep 0.1; done; cat /tmp/mark"); r.Stdout != "mark\n" {
				t.Errorf("exec after the restart = %+v", r)
			}
		})
	}
}
