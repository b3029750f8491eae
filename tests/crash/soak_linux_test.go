// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cloister/tests/bed"
	"cloister/tests/host"
	"cloister/tests/testenv"
)

// soakEnv asks for the whole load; without it a tenth is done.
const soakEnv = "CLOISTER_SOAK"

// share gives how often to do what the whole load does n times.
func share(n int) int {
	if os.Getenv(soakEnv) != "" {
		return n
	}
	return max(1, n/10)
}

// raceShim builds the shim with the race detector for the whole load, and for the rest gives the
// one there is.
func raceShim(t *testing.T, s *stage) {
	t.Helper()
	if os.Getenv(soakEnv) == "" {
		return
	}
	s.Runtime = filepath.Join(t.TempDir(), "containerd-shim-cloister-v2")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-race", "-o", s.Runtime, "./cmd/containerd-shim-cloister-v2")
	cmd.Dir = testenv.Tree(t)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build the shim with -race: %v\n%s", err, out)
	}
}

// TestSoakAtOnce creates, uses, kills and deletes eight containers at once.
func TestSoakAtOnce(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	raceShim(t, s)
	before := s.Look(t)
	const atOnce = 8
	rounds := share(20)
	for round := range rounds {
		var all sync.WaitGroup
		for i := range atOnce {
			all.Go(func() {
				id := fmt.Sprintf("r%02dc%d", round, i)
				for _, args := range [][]string{
					s.Args(id, []string{"--detach"}, "sleep", "1000"),
					{"task", "exec", "--exec-id", "e", id, "true"},
					{"task", "kill", "--signal", "KILL", id},
					{"task", "delete", "--force", id},
					{"containers", "delete", id},
				} {
					if r := s.Within(t, callLimit, args...); r.Code != 0 && !strings.Contains(r.Stderr, "137") {
						t.Errorf("round %d: ctr %s = %+v", round, strings.Join(args, " "), r)
					}
				}
			})
		}
		all.Wait()
		s.NothingLeft(t, before)
	}
	t.Logf("%d rounds of %d containers at once", rounds, atOnce)
}

// TestSoakCycles starts containers in pairs, one after the other, and wants the daemon's memory to
// stay where it is.
func TestSoakCycles(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	const atOnce = 2
	cycles := share(300) / atOnce
	var first int64
	for i := range cycles {
		var pair sync.WaitGroup
		for n := range atOnce {
			pair.Go(func() {
				if r := s.Within(t, callLimit, s.Args(fmt.Sprintf("c%03dn%d", i, n), []string{"--rm"}, "true")...); r.Code != 0 {
					t.Errorf("cycle %d: %+v", i, r)
				}
			})
		}
		pair.Wait()
		// Until then caches and pools fill up.
		if i == cycles/3 {
			first = s.rss(t, "containerd --config")
		}
	}
	s.NothingLeft(t, before)
	last := s.rss(t, "containerd --config")
	t.Logf("%d cycles, containerd's memory %d KiB after a third, %d KiB at the end", cycles*atOnce, first, last)
	// Room for garbage that is not collected yet; a leak of each cycle would be more.
	if last > first*3/2+8<<10 {
		t.Errorf("containerd's memory grew from %d to %d KiB", first, last)
	}
}

// rss is the resident memory, in KiB, of the process of the place with these words in its command
// line.
func (s *stage) rss(t *testing.T, words ...string) int64 {
	t.Helper()
	pids := s.Processes(t, words...)
	if len(pids) == 0 {
		t.Fatalf("no process %q", words)
	}
	return status(s.Place.Path(fmt.Sprintf("/proc/%d/status", pids[0])), "VmRSS:")
}

// TestSoakExecs runs many commands in one container, and wants its shim's memory and descriptors to
// stay where they are.
func TestSoakExecs(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	s.Start(t, "c", nil)
	shim := s.Shim(t, "c")
	descriptors := func() int {
		entries, err := os.ReadDir(s.Place.Path(fmt.Sprintf("/proc/%d/fd", shim)))
		if err != nil {
			t.Fatal(err)
		}
		return len(entries)
	}
	memory := func() int64 { return status(s.Place.Path(fmt.Sprintf("/proc/%d/status", shim)), "VmRSS:") }
	var firstMemory int64
	var firstFiles int
	execs := share(200)
	for i := range execs {
		if r := s.Exec(t, "c", fmt.Sprint("e", i), "echo", "-n", "x"); r.Stdout != "x" || r.Code != 0 {
			t.Fatalf("exec %d = %+v", i, r)
		}
		// Until then the shim's buffers and goroutines come up.
		if i == execs/4 {
			firstMemory, firstFiles = memory(), descriptors()
		}
	}
	// An exec's streams are closed a little after its answer.
	if !bed.Await(callLimit, func() bool { return descriptors() <= firstFiles }) {
		t.Errorf("the shim has %d descriptors, %d after a quarter", descriptors(), firstFiles)
	}
	// 4 MiB for garbage that is not collected yet, here and in a pod.
	t.Logf("%d execs, the shim's memory %d KiB after a quarter, %d KiB at the end", execs, firstMemory, memory())
	if last := memory(); last > firstMemory+4<<10 {
		t.Errorf("the shim's memory grew from %d to %d KiB", firstMemory, last)
	}
}

// TestSoakRestarts restarts containerd under a container that goes on.
func TestSoakRestarts(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	s.Start(t, "c", nil, "sh", "-c", "trap 'exit 7' TERM; while :; do sleep 0.2; done")
	restarts := share(50)
	for i := range restarts {
		s.Stop(t, []string{"TERM", "KILL"}[i%2]) // with and without the daemon's own end
		s.Containerd.Start(t)
		if r := s.Exec(t, "c", fmt.Sprint("e", i), "echo", "-n", "x"); r.Stdout != "x" {
			t.Fatalf("exec after restart %d = %+v", i, r)
		}
		if out := s.Must(t, "task", "metrics", "c"); !strings.Contains(out, "memory") {
			t.Fatalf("metrics after restart %d = %q", i, out)
		}
	}
	s.Must(t, "task", "kill", "--signal", "TERM", "c")
	s.AwaitStatus(t, "c", "STOPPED")
	if r := s.Run(t, "task", "delete", "c"); !strings.Contains(r.Stderr, "exit code 7") {
		t.Errorf("task delete = %+v, want exit code 7", r)
	}
	s.Must(t, "containers", "delete", "c")
	s.NothingLeft(t, before)
	t.Logf("%d restarts", restarts)
}

// TestSoakPod starts containers in one pod, one after the other, and wants the pod's record and its
// shim's memory to stay where they are: 2,000 in the whole load.
func TestSoakPod(t *testing.T) {
	s := &stage{Bed: bed.New(t, host.Options{})}
	before := s.Look(t)
	member := func(kind string) []string {
		return []string{"--annotation", "io.kubernetes.cri.container-type=" + kind, "--annotation", "io.kubernetes.cri.sandbox-id=pod"}
	}
	s.Start(t, "pod", member("sandbox"), "sleep", "100000")
	shim := s.Shim(t, "pod")
	network := fmt.Sprintf("network:/proc/%d/ns/net", s.pid(t, "pod")) // a container of a pod names the pod's
	memory := func() int64 { return status(s.Place.Path(fmt.Sprintf("/proc/%d/status", shim)), "VmRSS:") }
	record := func() int64 {
		st, err := os.Stat(s.Place.Path(filepath.Join("/run/cloister", s.Namespace, "pod", "record.json")))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	starts := 30 // the record's ring of phases is full after 22
	if os.Getenv(soakEnv) != "" {
		starts = 2000
	}
	var firstMemory, firstRecord int64
	for i := range starts {
		id := fmt.Sprintf("m%04d", i)
		if r := s.Within(t, callLimit, s.Args(id, append(member("container"), "--with-ns", network, "--rm"), "true")...); r.Code != 0 {
			t.Fatalf("start %d = %+v", i, r)
		}
		if i == 24 { // the ring is full
			firstMemory, firstRecord = memory(), record()
		}
	}
	t.Logf("%d starts in one pod: record %d bytes after 25, %d at the end; the shim's memory %d and %d KiB",
		starts, firstRecord, record(), firstMemory, memory())
	// Times and ids in it differ in length.
	if last := record(); last > firstRecord+firstRecord/8 {
		t.Errorf("the record grew from %d to %d bytes", firstRecord, last)
	}
	if last := memory(); last > firstMemory+4<<10 {
		t.Errorf("the shim's memory grew from %d to %d KiB", firstMemory, last)
	}
	s.Remove(t, "pod")
	s.NothingLeft(t, before)
}
