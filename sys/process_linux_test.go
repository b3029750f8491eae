// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func sleeper(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() })
	return cmd
}

func wantAlive(t *testing.T, name string, p Process, want bool) {
	t.Helper()
	if alive, err := p.Alive(); err != nil || alive != want {
		t.Errorf("Alive(%s) = %t, %v, want %t", name, alive, err, want)
	}
}

func TestAlive(t *testing.T) {
	self, err := Self()
	if err != nil {
		t.Fatal(err)
	}
	later, earlier, elsewhere, missing := self, self, self, self
	later.Start++
	earlier.Boot = "00000000-0000-0000-0000-000000000000"
	elsewhere.PIDNamespace++
	missing.PID = 1 << 30
	for _, tt := range []struct {
		name string
		of   Process
		want bool
	}{
		{"self", self, true},
		{"pid given out again", later, false},
		{"earlier boot", earlier, false},
		{"no such pid", missing, false},
		{"other pid namespace", elsewhere, true},
		{"none", Process{}, false},
	} {
		wantAlive(t, tt.name, tt.of, tt.want)
	}
	if err := elsewhere.Kill(t.Context()); err == nil {
		t.Error("Kill of a process of another pid namespace: no error")
	}
}

func TestKillHitsTheProcessItNames(t *testing.T) {
	cmd := sleeper(t)
	p, err := ProcessOf(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	other := p
	other.Start++
	if err := other.Kill(t.Context()); err != nil {
		t.Errorf("Kill of a pid given out again: %v", err)
	}
	wantAlive(t, "the one that has the pid", p, true)
	for range 2 { // the second time it is a zombie
		if err := p.Kill(t.Context()); err != nil {
			t.Error(err)
		}
		wantAlive(t, "killed", p, false)
	}
	_ = cmd.Wait()
	if err := p.Kill(t.Context()); err != nil {
		t.Errorf("Kill of a reaped process: %v", err)
	}
}

func TestPIDFD(t *testing.T) {
	cmd := sleeper(t)
	fd, err := OpenPID(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer fd.Close()
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := fd.Wait(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("Wait with an ended context = %v, want %v", err, context.Canceled)
	}
	waited := make(chan error, 1)
	go func() { waited <- fd.Wait(t.Context()) }()
	if err := fd.Signal(unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	_ = cmd.Wait()
	if err := fd.Signal(unix.SIGKILL); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("Signal to a reaped process = %v, want %v", err, os.ErrProcessDone)
	}
	if _, err := OpenPID(cmd.Process.Pid); !errors.Is(err, os.ErrProcessDone) {
		t.Errorf("OpenPID of a reaped process = %v, want %v", err, os.ErrProcessDone)
	}
}

func TestParseStat(t *testing.T) {
	line := "12 (a) b (c) R 9 " + strings.Repeat("1 ", 15) + "5 1 777 0 0\n"
	want := Stat{Start: 777, State: 'R', Threads: 5, Parent: 9}
	if got, err := parseStat([]byte(line)); err != nil || got != want {
		t.Errorf("parseStat = %+v, %v, want %+v", got, err, want)
	}
	for _, bad := range []string{"", "12 (a", ")", "1 (a) R 1 2"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q): no error", bad)
		}
	}
}

// TestEndedThreadIsNoEnd: the main thread of a process may end before others.
func TestEndedThreadIsNoEnd(t *testing.T) {
	for s, want := range map[Stat]bool{
		{State: 'Z', Threads: 2}: false, {State: 'Z', Threads: 1}: true, {State: 'X'}: true, {State: 'R', Threads: 1}: false, {}: false,
	} {
		if s.Ended() != want {
			t.Errorf("%+v has ended = %t, want %t", s, !want, want)
		}
	}
}

func TestStatOf(t *testing.T) {
	cmd := sleeper(t)
	pid := cmd.Process.Pid
	if s, err := StatOf(pid); err != nil || s.Parent != os.Getpid() || s.Ended() {
		t.Errorf("StatOf of a child that runs = %+v, %v, want parent %d and not ended", s, err, os.Getpid())
	}
	_, _ = cmd.Process.Kill(), cmd.Wait()
	if s, err := StatOf(pid); err != nil || s.Parent != 0 || !s.Ended() {
		t.Errorf("StatOf of a process that is gone = %+v, %v, want ended and no parent", s, err)
	}
}
