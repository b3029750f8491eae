// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	beds "cloister/tests/bed"
	"cloister/tests/host"
)

func TestExec(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", []string{"--env", "A=b"}, "sh", "-c", "echo mark >/tmp/mark; exec sleep 1000")
	// The shell becomes sleep a little after the start: same-pids below wants the latter.
	b.Exec(t, "c", "begun", "sh", "-c", "until grep -q sleep /proc/1/cmdline; do sleep 0.1; done")
	tests := []struct {
		name    string
		options []string
		command []string
		stdout  string
		code    int
	}{
		{"same-files", nil, []string{"cat", "/tmp/mark"}, "mark\n", 0},
		{"same-pids", nil, []string{"sh", "-c", "tr '\\0' ' ' </proc/1/cmdline"}, "sleep 1000 ", 0},
		{"environment", nil, []string{"sh", "-c", "echo $A"}, "b\n", 0},
		{"code", nil, []string{"sh", "-c", "exit 9"}, "", 9},
		{"cwd", []string{"--cwd", "/tmp"}, []string{"pwd"}, "/tmp\n", 0},
		{"user", []string{"--user", "1234"}, []string{"id", "-u"}, "1234\n", 0},
		{"by-signal", nil, []string{"sh", "-c", "kill -9 $$"}, "", 137},
		{"not-found", nil, []string{"sh", "-c", "/nowhere"}, "", 127},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"task", "exec", "--exec-id", tt.name}, tt.options...)
			r := b.Run(t, append(append(args, "c"), tt.command...)...)
			if r.Stdout != tt.stdout || r.Code != tt.code {
				t.Errorf("exec = %+v, want %q and exit %d", r, tt.stdout, tt.code)
			}
		})
	}
	if r := b.Exec(t, "c", "absent", "/nowhere"); r.Code == 0 || !strings.Contains(r.Stderr, "no such file or directory") {
		t.Errorf("exec of a file that is not there = %+v", r)
	}
	if r := b.Exec(t, "c", "again", "true"); r.Code != 0 {
		t.Errorf("exec after a refused one = %+v", r)
	}
}

func TestExecStdin(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil)
	ctx, cancel := context.WithTimeout(t.Context(), host.CallLimit)
	defer cancel()
	cmd := b.Ctr(ctx, "task", "exec", "--exec-id", "e", "c", "cat")
	cmd.Stdin = strings.NewReader("through\n")
	if r := b.Finish(ctx, t, cmd); r.Stdout != "through\n" {
		t.Errorf("cat = %+v", r)
	}
}

func TestExecsAtOnce(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil)
	const count = 8
	results := make(chan string, count)
	for i := range count {
		go func() {
			r := b.Exec(t, "c", fmt.Sprint("e", i), "sh", "-c", fmt.Sprintf("sleep 0.2; echo -n %d", i))
			results <- r.Stdout
		}()
	}
	seen := map[string]bool{}
	for range count {
		seen[<-results] = true
	}
	if len(seen) != count {
		t.Errorf("%d different answers, want %d: %v", len(seen), count, seen)
	}
}

func TestExecKill(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil)
	done := make(chan host.Result, 1)
	go func() { done <- b.Exec(t, "c", "e", "sh", "-c", "echo up >/tmp/up; exec sleep 1000") }()
	if wrong := host.Await(host.Patience, func() string { return b.Exec(t, "c", "probe", "cat", "/tmp/up").Stderr }); wrong != "" {
		t.Fatal(wrong)
	}
	b.Must(t, "task", "kill", "--signal", "TERM", "--exec-id", "e", "c")
	if r := <-done; r.Code != 143 {
		t.Errorf("a killed exec = %+v, want exit 143", r)
	}
	if got := b.Status(t, "c"); got != "RUNNING" {
		t.Errorf("the container is %q after its exec was killed, want RUNNING", got)
	}
}

// TestOutputBeforeAKillArrives kills a process right after it has written: all that it wrote
// arrives.
func TestOutputBeforeAKillArrives(t *testing.T) {
	b := newBed(t, host.Options{})
	b.Start(t, "c", nil)
	const size = 60000 // less than a pipe takes, so that the process does not wait for its reader
	for round := range 5 {
		killed := make(chan host.Result, 1)
		go func() {
			killed <- b.Exec(t, "c", fmt.Sprint("k", round), "sh", "-c",
				"until [ -e /tmp/written ]; do :; done; rm /tmp/written; kill -9 $(cat /tmp/pid)")
		}()
		r := b.Exec(t, "c", fmt.Sprint("e", round), "sh", "-c",
			fmt.Sprintf("echo $$ >/tmp/pid; head -c %d /dev/zero; : >/tmp/written; exec sleep 1000", size))
		if len(r.Stdout) != size || r.Code != 137 {
			t.Errorf("%d bytes of a killed process arrived, exit %d (%q), want %d and 137", len(r.Stdout), r.Code, r.Stderr, size)
		}
		if r := <-killed; r.Code != 0 {
			t.Errorf("kill = %+v", r)
		}
	}
}

// TestProgramsThatCannotStart wants the error to name the program, and nothing of the runtime's
// words in the container's own stderr but what runc writes there.
func TestProgramsThatCannotStart(t *testing.T) {
	b := newBed(t, host.Options{})
	dir := b.Place.Dir
	script := filepath.Join(dir, "run.sh")
	if err := os.WriteFile(script, []byte("echo a script without an interpreter\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	mount := []string{"--mount", "type=bind,src=" + dir + ",dst=/v,options=rbind:ro"}
	if r := b.run(t, "format", mount, "/v/run.sh"); r.Code != 255 || r.Stderr != "exec /v/run.sh: exec format error\n" {
		t.Errorf("a script without #!: exit %d, %q, want 255 and runc's message", r.Code, r.Stderr)
	}
	for name, text := range map[string]string{"nothere": "executable file not found in $PATH", "/etc/passwd": "permission denied"} {
		log := filepath.Join(dir, "log")
		r := b.Run(t, b.Args("refused", []string{"--detach", "--log-uri", "file://" + log}, name)...)
		if r.Code == 0 || !strings.Contains(r.Stderr, `"`+name+`"`) || !strings.Contains(r.Stderr, text) {
			t.Errorf("run %s = %+v, want an error with its name and %q", name, r, text)
		}
		if data, err := os.ReadFile(log); err != nil && !os.IsNotExist(err) || len(data) > 0 {
			t.Errorf("the container's own output is %q (%v), want none", data, err)
		}
		b.Remove(t, "refused")
	}
	events := b.Watch(t)
	b.Start(t, "c", nil)
	for name, text := range map[string]string{
		"nothere":     "executable file not found in $PATH",
		"/etc/passwd": "permission denied", "/etc": "",
	} {
		r := b.Exec(t, "c", "x", name)
		if r.Code == 0 || !strings.Contains(r.Stderr, `"`+name+`"`) || !strings.Contains(r.Stderr, text) ||
			strings.Count(r.Stderr, "\n") != 1 {
			t.Errorf("exec %s = %+v, want one line with its name and %q", name, r, text)
		}
	}
	b.Exec(t, "c", "last", "true")
	exited := func(id string) bool {
		return slices.ContainsFunc(events(), func(e beds.Event) bool { return e.Topic == "exit" && e.ID == id })
	}
	if wrong := host.Await(host.Patience, func() string {
		if exited("last") {
			return ""
		}
		return "no exit event of an exec that ran"
	}); wrong != "" {
		t.Error(wrong)
	}
	if exited("x") {
		t.Error("an exec that never ran has an exit event")
	}
}
