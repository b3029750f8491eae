// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/tests/stages"
)

// fake runs stages that are shell scripts, in a folder of its own, and returns what is printed.
func fake(ctx context.Context, t *testing.T, total time.Duration, cold bool, list ...stages.Stage) (string, bool) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.MkdirAll(logs, 0o755); err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	r := &runner{
		out: &out, all: list, began: time.Now(), results: map[string]stages.Results{},
		notRun: map[string]string{}, done: make(chan ended), whole: true,
		history: historyFile(filepath.Join(t.TempDir(), "ci", "history.json")),
		plan:    stages.Plan{Stages: list, Statuses: map[string]stages.Status{}, Processors: 2, Total: total, Cold: cold},
	}
	r.loop(ctx)
	ok, err := r.close(ctx)
	if err != nil {
		t.Fatal(err)
	}
	past, err := r.history.read()
	if err != nil || len(past) != 1 {
		t.Errorf("the run is not recorded: %v, %v", past, err)
	}
	t.Log(out.String())
	return out.String(), ok
}

func script(name, text string, needs ...string) stages.Stage {
	return stages.Stage{
		Name: name, Command: []string{"sh", "-c", text}, Needs: needs, Weight: 1,
		Warm: time.Second, Budget: time.Minute, Limit: time.Minute,
	}
}

// last is the line that readers of the output look for.
func last(out string) string {
	lines := strings.Split(strings.TrimSpace(out), "\n")
	return lines[len(lines)-1]
}

func wants(t *testing.T, out string, texts ...string) {
	t.Helper()
	for _, text := range texts {
		if !strings.Contains(out, text) {
			t.Errorf("the output lacks %q", text)
		}
	}
	if !regexp.MustCompile(`^\d+ passed, \d+ failed, \d+ skipped$`).MatchString(last(out)) {
		t.Errorf("the last line is %q", last(out))
	}
}

func TestRunCountsEvents(t *testing.T) {
	events := `printf '{"Action":"pass","Package":"p","Test":"TestA"}\n{"Action":"skip","Package":"p","Test":"TestB"}\n'; echo ` +
		`'pods: 3 passed, 0 failed, 0 skipped'`
	out, ok := fake(t.Context(), t, time.Minute, false, script("build", "true"), script("unit", events, "build"))
	if !ok {
		t.Error("the run failed")
	}
	wants(t, out, "pods: 3 passed", "skipped: unit TestB", "\n1 passed, 0 failed, 1 skipped\n")
}

func TestFailedBuildStopsWhatNeedsIt(t *testing.T) {
	out, ok := fake(t.Context(), t, time.Minute, true, script("build", "echo no compiler; exit 3"),
		script("unit", "true"), script("lab", "true", "build"))
	if ok {
		t.Error("the run passed")
	}
	wants(t, out, "no compiler", "exit status 3", "not run: lab: needs build, which failed", "unit: passed",
		"\n0 passed, 1 failed, 0 skipped\n")
}

func TestStageOverItsLimitIsEnded(t *testing.T) {
	slow := script("unit", "echo begun; sleep 1000 & sleep 1000")
	slow.Limit = 3 * time.Second
	out, ok := fake(t.Context(), t, time.Minute, false, slow, script("arch", "true"))
	if ok {
		t.Error("the run passed")
	}
	wants(t, out, "begun", "unit: ended after its limit of 3 s", "arch: passed", "\n0 passed, 1 failed, 0 skipped\n")
}

func TestTimeRunsOut(t *testing.T) {
	lab, unit := script("lab", "true", "unit"), script("unit", "sleep 1000")
	lab.Optional, lab.Warm, unit.Warm, unit.Limit = true, time.Hour, time.Second, time.Hour
	for _, cold := range []bool{true, false} {
		out, ok := fake(t.Context(), t, 2*time.Second, cold, unit, lab)
		if ok {
			t.Errorf("cold %t: a run without its unit tests passed", cold)
		}
		wants(t, out, "unit: ended after the last of the run's time", "not run: lab: ", "of these passed: 0, failed: 1, not run: 1")
	}
	unit.Command = []string{"true"}
	out, ok := fake(t.Context(), t, time.Minute, true, unit, lab)
	if !ok {
		t.Error("a cold machine without time for an optional stage failed")
	}
	wants(t, out, "not run: lab: the machine is cold: it needs about 3600 s", "\n0 passed, 0 failed, 0 skipped\n")
	// Warm it is run, and its end is the run's.
	lab.Command = []string{"sleep", "1000"}
	if out, ok = fake(t.Context(), t, 6*time.Second, false, unit, lab); ok {
		t.Error("a warm machine that ended a stage passed")
	}
	wants(t, out, "lab: ended after the last of the run's time")
}

func TestRunEndsWithinAnOptionalStage(t *testing.T) {
	const passed, failed = `{"Action":"pass","Package":"p","Test":"TestA"}`, `{"Action":"fail","Package":"p","Test":"TestA"}`
	for _, tt := range []struct {
		name, event string
		cold, ok    bool
		says        string
	}{
		{"cold", passed, true, true, "not run: lab: the machine is cold, and the run's time ended it after"},
		{"cold, with a failed test", failed, true, false, "lab: FAILED"},
		{"warm", passed, false, false, "lab: FAILED"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			lab := script("lab", `echo '{"Action":"run","Package":"p","Test":"TestB"}'; echo '`+tt.event+`'; sleep 1000`)
			lab.Optional = true
			out, ok := fake(t.Context(), t, 5*time.Second, tt.cold, lab)
			if ok != tt.ok {
				t.Errorf("the run passed: %t, want %t", ok, tt.ok)
			}
			wants(t, out, tt.says)
		})
	}
}

func TestInterruptedRunStillCloses(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	begun := filepath.Join(t.TempDir(), "begun")
	if err := unix.Mkfifo(begun, 0o600); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = os.ReadFile(begun) // ends once the stage has written
		cancel()
	}()
	out, ok := fake(ctx, t, time.Minute, true, script("unit", "echo >"+begun+"; sleep 1000"), script("lab", "true", "unit"))
	if ok {
		t.Error("the run passed")
	}
	wants(t, out, "unit: interrupted", "not run: lab: the run was interrupted", "\n0 passed, 1 failed, 0 skipped\n")
}

// TestHistoryIsShared: runs that end at the same time are all recorded.
func TestHistoryIsShared(t *testing.T) {
	file := historyFile(filepath.Join(t.TempDir(), "ci", "history.json"))
	var all sync.WaitGroup
	for range stages.Kept {
		all.Go(func() {
			_, err := file.update(func(h stages.History) stages.History { return h.Add(stages.Record{NotRun: []string{"lab"}}) })
			if err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if h, err := file.read(); err != nil || len(h) != stages.Kept {
		t.Fatalf("after %d runs at once: %d, %v", stages.Kept, len(h), err)
	}
	if err := os.WriteFile(string(file), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := file.read(); err == nil {
		t.Error("a damaged file was read")
	}
	if h, err := file.update(func(h stages.History) stages.History { return h.Add(stages.Record{}) }); err != nil || len(h) != 1 {
		t.Errorf("a damaged file is not replaced: %v, %v", h, err)
	}
}
