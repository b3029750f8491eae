// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/leaks"
	"cloister/tests/testenv"
)

// Bounds that containerd and its clients have.
const (
	deleteLimit = 5 * time.Second // containerd's for a shim's delete (io.containerd.timeout.shim.cleanup)
	callLimit   = host.CallLimit
)

// crashShim builds the shim that kills itself at a step it is told.
func crashShim(t *testing.T) string {
	t.Helper()
	out := filepath.Join(t.TempDir(), "containerd-shim-cloister-v2")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-tags", "crashtest", "-o", out,
		"./cmd/containerd-shim-cloister-v2")
	cmd.Dir = testenv.Tree(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the shim with the tag crashtest: %v\n%s", err, text)
	}
	return out
}

// stage is a bed whose shim tells its steps and dies at one of them.
type stage struct {
	*bed.Bed
	dir    string
	events func() []bed.Event
}

func newStage(t *testing.T) *stage {
	t.Helper()
	return newStageWith(t, host.Options{})
}

func newStageWith(t *testing.T, o host.Options) *stage {
	t.Helper()
	dir := t.TempDir()
	o.Env = append(o.Env, "CLOISTER_CRASHTEST="+dir)
	s := &stage{Bed: bed.New(t, o), dir: dir}
	s.Runtime = crashShim(t)
	s.events = s.Watch(t)
	return s
}

// steps are those that the sandbox of a container has reached.
func (s *stage) steps(t *testing.T, id string) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.dir, id+".steps"))
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(data)), "\n")
}

// dieAt has the shim of a container die at a step.
func (s *stage) dieAt(t *testing.T, id, step string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(s.dir, id+".at"), []byte(step), 0o600); err != nil {
		t.Fatal(err)
	}
}

// life takes a container through Create, Start, Exec, Kill and Delete, each of which may fail.
func (s *stage) life(t *testing.T, id string) []host.Result {
	t.Helper()
	var results []host.Result
	for _, args := range [][]string{
		s.Args(id, append([]string{"--detach"}, s.volumes(t)...), "sleep", "1000"),
		{"task", "exec", "--exec-id", "e", id, "true"},
		{"task", "kill", "--signal", "KILL", id},
	} {
		results = append(results, s.Within(t, callLimit, args...))
	}
	// The answer does not count: after a kill the task may be in any state, which gone looks at.
	bed.Await(time.Minute, func() bool { return s.Status(t, id) != "RUNNING" })
	return append(results, s.Within(t, callLimit, "task", "delete", id))
}

// volumes are the options of a container with a folder, a file and a copied file of the host's.
// Each kind of mount has steps of its own to die at.
func (s *stage) volumes(t *testing.T) []string {
	t.Helper()
	dir := filepath.Join(s.Dir, "volume")
	must(t, os.MkdirAll(dir, 0o755))
	must(t, os.WriteFile(filepath.Join(dir, "hosts"), []byte("127.0.0.1 localhost\n"), 0o644))
	return []string{
		"--mount", "type=bind,src=" + dir + ",dst=/volume,options=rbind:rw", "--mount",
		"type=bind,src=" + dir + "/hosts,dst=/one,options=rbind:ro",
		"--mount", "type=bind,src=" + dir + "/hosts,dst=/etc/hosts,options=rbind:rw",
	}
}

// gone demands that what is left of a container can be taken away in time.
func (s *stage) gone(t *testing.T, id string) {
	t.Helper()
	status := ""
	if !bed.Await(host.Patience, func() bool { status = s.Status(t, id); return status == "" || status == "STOPPED" }) {
		t.Errorf("containerd sees the task as %q, want it stopped or gone", status)
	}
	for _, args := range [][]string{{"task", "delete", id}, {"containers", "delete", id}} {
		begin := time.Now()
		s.Must(t, "version")
		idle := time.Since(begin) // what this host, as busy as it is now, takes for a call that does nothing
		begin = time.Now()
		r := s.Within(t, callLimit, args...)
		if took, most := time.Since(begin), deleteLimit+10*idle; took > most {
			t.Errorf("ctr %s took %s, want less than %s", strings.Join(args, " "), took, most)
		}
		if r.Code != 0 && !strings.Contains(r.Stderr, "not found") && !strings.Contains(r.Stderr, "non-zero exit code 137") {
			t.Errorf("ctr %s = %+v", strings.Join(args, " "), r)
		}
	}
}

// nothingOf demands that nothing on the host has a container's name.
func (s *stage) nothingOf(t *testing.T, before leaks.Snapshot, id string) {
	t.Helper()
	var left []string
	if !bed.Await(host.Patience, func() bool {
		left = slices.DeleteFunc(leaks.Compare(before, s.Look(t)), func(line string) bool { return !strings.Contains(line, id) })
		return len(left) == 0
	}) {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// exited says with which status containerd has seen a container end.
func (s *stage) exited(id string) (status uint32, seen bool) {
	for _, e := range s.events() {
		if e.Topic == "exit" && e.Container == id && e.ID == id {
			return e.ExitStatus, true
		}
	}
	return 0, false
}

// TestShimKilledAtEveryStep kills the shim after each step that has an effect. The steps are those
// that a life without a crash reports, so that a new one is tested without a word here.
func TestShimKilledAtEveryStep(t *testing.T) {
	killedAtEveryStep(t, newStage(t), []string{"promise reached", "start reached", "exec started reached", "folder undone"})
}

// TestPlainShimKilledAtEveryStep is TestShimKilledAtEveryStep with plain containers, which go on
// when their shim has gone.
func TestPlainShimKilledAtEveryStep(t *testing.T) {
	killedAtEveryStep(t, newStageWith(t, host.Options{Class: "process"}), []string{
		"prepare reached", "container ID made", "verify reached", "start reached", "exec started reached", "task deleted reached",
		"container ID undone", "reservation . undone",
	})
}

// killedAtEveryStep takes a life for each step that a whole one has. wanted are some of them.
func killedAtEveryStep(t *testing.T, s *stage, wanted []string) {
	t.Helper()
	before := s.Look(t)
	for i, r := range s.life(t, "whole") {
		if r.Code != 0 && !strings.Contains(r.Stderr, "non-zero exit code 137") {
			t.Fatalf("call %d of a life without a crash: %+v", i, r)
		}
	}
	s.Must(t, "containers", "delete", "whole")
	s.NothingLeft(t, before)
	steps := s.steps(t, "whole")
	for _, want := range wanted {
		if !slices.Contains(steps, want) {
			t.Errorf("no step %q among %q", want, steps)
		}
	}
	// Before its start a container has no exit that containerd could report.
	started := slices.Index(steps, "start reached")
	if testing.Short() {
		steps = steps[:0]
	}
	var killed atomic.Int32
	var mu sync.Mutex
	var missed []string
	t.Run("step", func(t *testing.T) {
		for i, step := range steps {
			t.Run(fmt.Sprintf("%02d %s", i, step), func(t *testing.T) {
				t.Parallel()
				id := fmt.Sprintf("step%02d", i)
				s.dieAt(t, id, step)
				results := s.life(t, id)
				s.gone(t, id)
				t.Cleanup(func() {
					if t.Failed() {
						t.Logf("the calls gave %+v", results)
					}
				})
				// A step that a second life does not reach would pass without a kill: it fails at
				// the end.
				if reached := s.steps(t, id); !slices.Contains(reached, step) {
					mu.Lock()
					missed = append(missed, step)
					mu.Unlock()
					return
				}
				killed.Add(1)
				if started >= 0 && i >= started {
					if !bed.Await(host.Patience, func() bool { _, seen := s.exited(id); return seen }) {
						t.Error("containerd has not reported the task's end")
					} else if status, _ := s.exited(id); status != 137 {
						t.Errorf("exit status %d, want 137", status)
					}
				}
				s.nothingOf(t, before, id)
			})
		}
	})
	if len(missed) > 0 {
		t.Errorf("steps that a second life did not reach: %q", missed)
	}
	s.NothingLeft(t, before)
	t.Logf("%d steps, the shim was killed at %d", len(steps), killed.Load())
}
