// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/sys"
	"cloister/tests/testenv"
)

func TestLabelIsSetOnTheStartingThread(t *testing.T) {
	var set, cleared int
	j := Jail{Label: func() (func(), error) {
		set = unix.Gettid()
		return func() { cleared = unix.Gettid() }, nil
	}}
	cmd := exec.CommandContext(t.Context(), "/bin/true")
	if err := j.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if set == 0 || set != cleared || set == os.Getpid() {
		t.Errorf("label set on thread %d and cleared on %d, want one thread that is not the main one", set, cleared)
	}
}

type failingGroup struct{}

func (failingGroup) Add(int) error { return unix.EBUSY }

func TestStartRefuses(t *testing.T) {
	errAny := errors.New("any error")
	tests := []struct {
		name   string
		change func(j *Jail, c *exec.Cmd)
		want   error
	}{
		{"label fails", func(j *Jail, _ *exec.Cmd) { j.Label = func() (func(), error) { return nil, unix.EACCES } }, unix.EACCES},
		{"a pipe", func(_ *Jail, c *exec.Cmd) { c.Stderr = &bytes.Buffer{} }, errAny},
		{"no program", func(_ *Jail, c *exec.Cmd) { c.Path = "/nonexistent" }, fs.ErrNotExist},
		{"no cgroup", func(j *Jail, _ *exec.Cmd) { j.Group = failingGroup{} }, unix.EBUSY},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var j Jail
			cmd := exec.CommandContext(t.Context(), "/bin/sleep", "1000")
			tt.change(&j, cmd)
			err := j.Start(cmd)
			if err == nil || (!errors.Is(tt.want, errAny) && !errors.Is(err, tt.want)) {
				t.Errorf("Start = %v, want %v", err, tt.want)
			}
			if cmd.Process != nil && cmd.ProcessState == nil {
				t.Error("a process is left")
			}
		})
	}
}

// TestPdeathsig shows that the starting thread outlives the child: a child killed by its end would answer nothing.
func TestPdeathsig(t *testing.T) {
	theirs, ours := pipe(t)
	answer, echo := pipe(t)
	cmd := exec.CommandContext(t.Context(), "/bin/cat")
	cmd.Stdin, cmd.Stdout = theirs, echo
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := (Jail{}).Start(cmd); err != nil {
		t.Fatal(err)
	}
	for range 100 { // churn threads, so that an ended one would be gone
		_ = sys.OnThread(func() error { return nil })
		runtime.Gosched()
	}
	if _, err := ours.WriteString("x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(answer, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	_ = ours.Close()
	if err := cmd.Wait(); err != nil {
		t.Errorf("Wait = %v, want a clean end", err)
	}
}

func TestKeepCapabilities(t *testing.T) {
	testenv.NeedRoot(t)
	setpriv := testenv.NeedTool(t, "setpriv")
	for _, keep := range []bool{true, false} {
		r, w := pipe(t)
		cmd := exec.CommandContext(t.Context(), setpriv, "--dump")
		cmd.Stdout = w
		if err := (Jail{KeepCapabilities: keep}).Start(cmd); err != nil {
			t.Fatal(err)
		}
		_ = w.Close()
		out, err := io.ReadAll(r)
		if err := errors.Join(err, cmd.Wait()); err != nil {
			t.Fatal(err)
		}
		if got := strings.Contains(string(out), "no_setuid_fixup"); got != keep {
			t.Errorf("KeepCapabilities %t: %s", keep, out)
		}
	}
}

func TestNetNS(t *testing.T) {
	testenv.NeedRoot(t)
	var space *os.File
	if err := sys.OnThread(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		space, err = os.Open("/proc/thread-self/ns/net")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = space.Close() }()
	before, _ := os.Readlink("/proc/self/ns/net")
	answer, out := pipe(t)
	cmd := exec.CommandContext(t.Context(), "/bin/readlink", "/proc/self/ns/net")
	cmd.Stdout = out
	if err := (Jail{Network: space}).Start(cmd); err != nil {
		t.Fatal(err)
	}
	_ = out.Close()
	got, err := io.ReadAll(answer)
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	want, _ := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", space.Fd()))
	if strings.TrimSpace(string(got)) != want || want == before {
		t.Errorf("child's namespace is %s, want %s, ours is %s", got, want, before)
	}
	if after, _ := os.Readlink("/proc/self/ns/net"); after != before {
		t.Errorf("our namespace became %s, was %s", after, before)
	}
}

func pipe(t *testing.T) (r, w *os.File) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = errors.Join(r.Close(), w.Close()) })
	return r, w
}
