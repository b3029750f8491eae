// SPDX-License-Identifier: Apache-2.0

package reap

import (
	"os"
	"os/exec"
	"testing"
	"time"

	runc "github.com/containerd/go-runc"
)

func TestMonitorConnectsByPidFile(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	var m Monitor
	m.Attach("/c/init.pid", Stdio{Stdin: r, Stdout: w})
	for _, tt := range []struct {
		args []string
		want bool
	}{
		{[]string{"crun", "create", "--pid-file", "/c/init.pid", "c"}, true},
		{[]string{"crun", "exec", "--pid-file", "/c/other.pid", "c"}, false},
		{[]string{"crun", "start", "c"}, false},
		{[]string{"crun", "--pid-file"}, false},
	} {
		cmd := &exec.Cmd{Args: tt.args}
		if err := m.connect(cmd); err != nil {
			t.Fatal(err)
		}
		if got := cmd.Stdin == r && cmd.Stdout == w && cmd.Stderr == nil; got != tt.want {
			t.Errorf("%q gets the streams: %t, want %t", tt.args, got, tt.want)
		}
	}
	m.Detach("/c/init.pid")
	cmd := &exec.Cmd{Args: []string{"crun", "create", "--pid-file", "/c/init.pid", "c"}}
	if err := m.connect(cmd); err != nil || cmd.Stdin != nil {
		t.Errorf("streams are given after Detach, %v", err)
	}
}

// TestNullTakesOutput connects a process of whose outputs the engine has asked for one: it can
// write to both.
func TestNullTakesOutput(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	defer w.Close()
	nothing, err := runc.NewNullIO()
	if err != nil {
		t.Fatal(err)
	}
	defer nothing.Close()
	var m Monitor
	m.Attach("/c/init.pid", Stdio{Stderr: w})
	cmd := &exec.Cmd{Args: []string{"crun", "create", "--pid-file", "/c/init.pid", "c"}}
	nothing.Set(cmd)
	if err := m.connect(cmd); err != nil {
		t.Fatal(err)
	}
	if cmd.Stderr != w {
		t.Errorf("stderr is %v, want the pipe", cmd.Stderr)
	}
	if n, err := cmd.Stdout.Write([]byte("x")); n != 1 || err != nil {
		t.Errorf("write to an output that nobody asked for: %d, %v", n, err)
	}
}

// TestManyCommandsDoNotBlockTheReaper ends more commands than a reader's channel
// holds.
func TestManyCommandsDoNotBlockTheReaper(t *testing.T) {
	Start()
	var m Monitor
	commands := func() time.Duration {
		start := time.Now()
		for range 70 {
			cmd := exec.CommandContext(t.Context(), "true")
			ended, err := m.Start(cmd)
			if err != nil {
				t.Fatal(err)
			}
			if status, err := m.Wait(cmd, ended); status != 0 || err != nil {
				t.Fatalf("Wait = %d, %v", status, err)
			}
		}
		return time.Since(start)
	}
	before := commands()
	if err := m.Spawn(exec.CommandContext(t.Context(), "sleep", "1000")); err != nil {
		t.Fatal(err)
	}
	// A channel that nobody reads holds 32, and each end after that up by a second (containerd's
	// reaper).
	if took := commands(); took > before+30*time.Second {
		t.Errorf("70 commands took %v beside a spawned one, %v without", took, before)
	}
}
