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

func (failingGroup) Holds(int) (bool, error) { return false, unix.EBUSY }

// listGroup is a cgroup that is a list.
type listGroup map[int]bool

func (g listGroup) Add(pid int) error {
	g[pid] = true
	return nil
}

func (g listGroup) Holds(pid int) (bool, error) { return g[pid], nil }

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

// TestPdeathsig shows that the starting thread outlives the child: a child killed by its end
// would answer nothing.
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

// TestSecurebits has a program say its own, which nobody else can read.
func TestSecurebits(t *testing.T) {
	testenv.NeedRoot(t)
	none, few := NewSet(), NewSet(unix.CAP_CHOWN)
	const (
		noFixup = "0x4"  // SECBIT_NO_SETUID_FIXUP
		locked  = "0xef" // all of linux/securebits.h with their locks; keep_caps is locked as off
	)
	for name, tt := range map[string]struct {
		jail Jail
		want string
	}{
		"the host's":            {Jail{}, "0x0"},
		"few capabilities":      {Jail{Bounding: &few}, "0x0"},
		"few of a file server":  {Jail{Bounding: &few, KeepCapabilities: true}, noFixup},
		"all of a file server":  {Jail{KeepCapabilities: true}, noFixup},
		"none":                  {Jail{Bounding: &none}, locked},
		"none of a file server": {Jail{Bounding: &none, KeepCapabilities: true}, locked},
	} {
		if got := say(t, tt.jail, "securebits"); got != tt.want {
			t.Errorf("%s: securebits %s, want %s", name, got, tt.want)
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

// TestBounding has root's programs say what they have: cat is the program itself, as QEMU is.
func TestBounding(t *testing.T) {
	testenv.NeedRoot(t)
	none, few := NewSet(), NewSet(unix.CAP_CHOWN, unix.CAP_SETPCAP)
	tests := []struct {
		name string
		jail Jail
		want map[string]string
	}{
		{
			"none",
			Jail{Bounding: &none, NoNewPrivs: true},
			map[string]string{
				"CapPrm": none.String(), "CapEff": none.String(), "CapBnd": none.String(),
				"CapInh": none.String(), "CapAmb": none.String(), "NoNewPrivs": "1",
			},
		},
		{"few", Jail{Bounding: &few}, map[string]string{
			"CapPrm": few.String(), "CapEff": few.String(),
			"CapBnd": few.String(), "CapInh": none.String(), "CapAmb": none.String(), "NoNewPrivs": "0",
		}},
		{
			"few of a file server",
			Jail{Bounding: &few, KeepCapabilities: true},
			map[string]string{"CapEff": few.String(), "CapBnd": few.String()},
		},
	}
	before, err := os.ReadFile("/proc/thread-self/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, w := pipe(t)
			cmd := exec.CommandContext(t.Context(), testenv.NeedTool(t, "cat"), "/proc/self/status")
			cmd.Stdout = w
			if err := tt.jail.Start(cmd); err != nil {
				t.Fatal(err)
			}
			_ = w.Close()
			out, err := io.ReadAll(r)
			if err := errors.Join(err, cmd.Wait()); err != nil {
				t.Fatal(err)
			}
			for name, want := range tt.want {
				if !strings.Contains(string(out), "\n"+name+":\t"+want+"\n") {
					t.Errorf("want %s %s in\n%s", name, want, out)
				}
			}
			if err := tt.jail.checkStatus(out); err != nil {
				t.Errorf("checkStatus = %v", err)
			}
			if err := tt.jail.checkStatus(before); !errors.Is(err, ErrEscaped) {
				t.Errorf("checkStatus of a process that has all capabilities = %v, want %v", err, ErrEscaped)
			}
		})
	}
	for range 20 { // no thread of the pool has lost any
		if after, err := os.ReadFile("/proc/thread-self/status"); err != nil || capabilities(after) != capabilities(before) {
			t.Fatalf("this process has %s, had %s", capabilities(after), capabilities(before))
		}
	}
}

func capabilities(status []byte) string {
	_, after, _ := strings.Cut(string(status), "CapInh:")
	before, _, _ := strings.Cut(after, "Seccomp:")
	return before
}

func TestVerify(t *testing.T) {
	testenv.NeedRoot(t)
	none := NewSet()
	const all = unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWNET
	limits := Limits{NoLocked: true, FileBytes: 1 << 20}
	j := Jail{Bounding: &none, NoNewPrivs: true, Isolate: all, Limits: limits}
	start := func(j Jail) int {
		cmd := exec.CommandContext(t.Context(), "/bin/sleep", "1000")
		if err := j.Start(cmd); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
		return cmd.Process.Pid
	}
	if err := j.Verify(start(j)); err != nil {
		t.Error(err)
	}
	for name, less := range map[string]Jail{
		"all capabilities": {NoNewPrivs: true, Isolate: all, Limits: limits},
		"new privileges":   {Bounding: &none, Isolate: all, Limits: limits},
		"host's ipc":       {Bounding: &none, NoNewPrivs: true, Isolate: all &^ unix.CLONE_NEWIPC, Limits: limits},
		"host's uts":       {Bounding: &none, NoNewPrivs: true, Isolate: all &^ unix.CLONE_NEWUTS, Limits: limits},
		"host's cgroup":    {Bounding: &none, NoNewPrivs: true, Isolate: all &^ unix.CLONE_NEWCGROUP, Limits: limits},
		"host's network":   {Bounding: &none, NoNewPrivs: true, Isolate: all &^ unix.CLONE_NEWNET, Limits: limits},
		"locked memory":    {Bounding: &none, NoNewPrivs: true, Isolate: all, Limits: Limits{FileBytes: limits.FileBytes}},
		"large files":      {Bounding: &none, NoNewPrivs: true, Isolate: all, Limits: Limits{NoLocked: true}},
	} {
		if err := j.Verify(start(less)); !errors.Is(err, ErrEscaped) {
			t.Errorf("%s: Verify = %v, want %v", name, err, ErrEscaped)
		}
	}
	if err := j.Verify(1 << 30); err == nil {
		t.Error("Verify of no process: no error")
	}
	j.Group = listGroup{}
	pid := start(j)
	if err := j.Verify(pid); err != nil {
		t.Errorf("in its cgroup: %v", err)
	}
	j.Group = listGroup{pid + 1: true}
	if err := j.Verify(pid); !errors.Is(err, ErrEscaped) {
		t.Errorf("in another cgroup: Verify = %v, want %v", err, ErrEscaped)
	}
	j.Group = failingGroup{}
	if err := j.Verify(pid); !errors.Is(err, unix.EBUSY) {
		t.Errorf("a cgroup that cannot be read: Verify = %v, want %v", err, unix.EBUSY)
	}
	network, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer network.Close()
	if err := (Jail{Network: network}).Verify(pid); !errors.Is(err, ErrEscaped) {
		t.Errorf("in another network namespace: Verify = %v, want %v", err, ErrEscaped)
	}
}

// TestVerifyLooksAtEveryThread: one thread that has more rights is as good as all.
func TestVerifyLooksAtEveryThread(t *testing.T) {
	testenv.NeedRoot(t)
	if got := say(t, Jail{}, "threads"); !strings.Contains(got, "NoNewPrivs is") {
		t.Errorf("with no_new_privs on the first thread alone: Verify: %s, want %v", got, ErrEscaped)
	}
}

func TestConfig(t *testing.T) {
	c := Config{Disable: []Part{RootDir}}
	if err := c.Check(); err != nil || c.Has(RootDir) || !c.Has(NoNewPrivs) {
		t.Errorf("Check = %v, parts %s", err, c.On(0))
	}
	if err := (Config{Disable: []Part{"everything"}}).Check(); err == nil {
		t.Error("Check of a name that is no part's: no error")
	}
}
