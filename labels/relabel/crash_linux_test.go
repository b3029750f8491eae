// SPDX-License-Identifier: Apache-2.0

package relabel

import (
	"errors"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"cloister/labels/lsm"
	"cloister/sys"
)

const crashAt = "CLOISTER_TEST_CRASH" // set: "dir journal step" of a process that is to die

// deadly kills the process at one of its steps: before or after a write, or at a reading.
type deadly struct {
	left *int
}

func (d deadly) step() {
	*d.left--
	if *d.left == 0 {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
		select {}
	}
}

func (d deadly) Read(f *os.File) (string, error) {
	d.step()
	return lsm.RawFileLabel(f)
}

func (d deadly) Write(f *os.File, label string) error {
	d.step()
	err := lsm.SetRawFileLabel(f, label)
	d.step()
	return err
}

// TestKilledAtEveryStep kills a process that labels and restores at each of its steps; the next
// process gives everything back.
func TestKilledAtEveryStep(t *testing.T) {
	w := newWorld(t)
	before := map[string]string{}
	for _, f := range [][2]string{
		{"disk", oldOne},
		{"volume/one", oldOne},
		{"volume/two", oldTwo},
		{"volume/deep/three", ""},
		{"volume/four", guestA},
	} {
		before[w.file(f[0], f[1])] = f[1]
	}
	kills := 0
	for step := 1; ; step++ {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestCrashingProcess$")
		cmd.Env = append(os.Environ(), crashAt+"="+w.dir+" "+w.journal+" "+strconv.Itoa(step))
		out, err := cmd.CombinedOutput()
		var exit *exec.ExitError
		if err != nil && (!errors.As(err, &exit) || exit.ExitCode() != -1) {
			t.Fatalf("step %d: %v: %s", step, err, out)
		}
		w.dead[1] = true
		if _, replaying := w.open(2).Replay(t.Context()); replaying != nil {
			t.Fatalf("step %d: %v", step, replaying)
		}
		for path, want := range before {
			w.want(path, want)
		}
		w.wantEmpty()
		if t.Failed() {
			t.Fatalf("killed at step %d", step)
		}
		if err == nil {
			break
		}
		kills++
	}
	t.Logf("killed at %d steps", kills)
	if kills < 20 {
		t.Errorf("only %d steps were killed", kills)
	}
}

// TestCrashingProcess is the process that dies; alone it does nothing.
func TestCrashingProcess(t *testing.T) {
	what := strings.Fields(os.Getenv(crashAt))
	if len(what) != 3 {
		t.Skip("runs for TestKilledAtEveryStep")
	}
	step, err := strconv.Atoi(what[2])
	if err != nil {
		t.Fatal(err)
	}
	j, err := Open(Options{
		Dir: what[1], Self: sys.Process{PID: 1, Start: 1, Boot: "boot-1"}, Attributes: deadly{&step},
		Alive: func(sys.Process) (bool, error) { return true, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	tree := item(t, what[0]+"/volume", guestA)
	tree.Recursive = true
	if _, err := j.Apply(t.Context(), "ns/a", tree.Label.Range.High, []Item{item(t, what[0]+"/disk", guestA), tree}); err != nil {
		t.Fatal(err)
	}
	if _, err := j.Restore(t.Context(), "ns/a"); err != nil {
		t.Fatal(err)
	}
}
