// SPDX-License-Identifier: Apache-2.0

package crash

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"cloister/tests/host"
)

// clientTimeout is enough to get to the step, on a busy host too.
const clientTimeout = "5s"

// hold has a container's shim stop at a step. reached waits until it does, release lets it go on.
func (s *stage) hold(t *testing.T, id, step string) (reached, release func()) {
	t.Helper()
	name := func(suffix string) string { return filepath.Join(s.dir, id+"."+suffix) }
	for _, fifo := range []string{name("held"), name("go")} {
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(name("hold"), []byte(step), 0o600); err != nil {
		t.Fatal(err)
	}
	reached = func() {
		t.Helper()
		read := make(chan error, 1)
		go func() {
			_, err := os.ReadFile(name("held"))
			read <- err
		}()
		select {
		case err := <-read:
			if err != nil {
				t.Fatal(err)
			}
		case <-time.After(host.Patience):
			t.Fatalf("the shim of %s has not reached the step %q", id, step)
		}
	}
	return reached, func() {
		t.Helper()
		if err := os.WriteFile(name("go"), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// TestCreateIsUndoneAfterClientDisconnect: a client disconnects while the stopped guest creates a
// second container. Nothing of it is left in the guest, and the container can be created again.
func TestCreateIsUndoneAfterClientDisconnect(t *testing.T) {
	s := newStage(t)
	// #2: the first container of the sandbox reaches the step as well.
	reached, release := s.hold(t, "first", "streams reached #2")
	s.Start(t, "first", nil)
	machine := s.Marked(t, "first", "qemu-system")
	second := s.Args("second", []string{"--detach", "--with-ns", fmt.Sprintf("network:/proc/%d/ns/net", machine)}, "sleep", "1000")
	t.Cleanup(func() { s.Remove(t, "second") })
	ended := make(chan host.Result, 1)
	go func() { ended <- s.Run(t, append([]string{"--timeout", clientTimeout}, second...)...) }()
	reached() // what comes next is asked of the guest
	s.Place.Run(t, "kill", "-STOP", strconv.Itoa(machine))
	release()
	if r := <-ended; r.Code == 0 {
		t.Error("a stopped guest has made a container")
	}
	s.Place.Run(t, "kill", "-CONT", strconv.Itoa(machine))
	if wrong := host.Await(host.Patience, func() string {
		s.Remove(t, "second")
		if r := s.Run(t, second...); r.Code != 0 {
			return r.Stderr
		}
		return ""
	}); wrong != "" {
		t.Errorf("the same container once more: %s", wrong)
	}
}

// TestExecSurvivesClientDisconnect: a client disconnects while the stopped guest starts a program.
// Clients can kill and delete what the guest has started, and its name is free again.
func TestExecSurvivesClientDisconnect(t *testing.T) {
	// At the first step the guest has not made the process: without its client it is not started.
	// At the second the start alone is left, and is carried out.
	for step, started := range map[string]bool{"exec streams reached": false, "exec made reached": true} {
		t.Run(step, func(t *testing.T) {
			s := newStage(t)
			reached, release := s.hold(t, "first", step)
			s.Start(t, "first", nil)
			machine := s.Marked(t, "first", "qemu-system")
			ended := make(chan host.Result, 1)
			go func() {
				ended <- s.Run(t, "--timeout", clientTimeout, "task", "exec", "--exec-id", "x", "first", "sleep", "777")
			}()
			reached()
			s.Place.Run(t, "kill", "-STOP", strconv.Itoa(machine))
			release()
			if r := <-ended; r.Code == 0 {
				t.Error("a stopped guest has started a program")
			}
			s.Place.Run(t, "kill", "-CONT", strconv.Itoa(machine))
			if r := s.Run(t, "task", "kill", "--signal", "KILL", "--exec-id", "x", "first"); (r.Code == 0) != started {
				t.Errorf("kill: %+v, want it to find the program: %t", r, started)
			}
			if wrong := host.Await(host.Patience, func() string {
				if r := s.Run(t, "task", "delete", "--exec-id", "x", "first"); r.Code != 0 && !strings.Contains(r.Stderr, "exit code 137") {
					return r.Stderr
				}
				return ""
			}); wrong != "" {
				t.Errorf("delete: %s", wrong)
			}
			if out := s.Must(t, "task", "exec", "--exec-id", "x", "first", "ps", "-o", "args"); strings.Contains(out, "777") {
				t.Errorf("the program runs on:\n%s", out)
			}
		})
	}
}

// TestPausedContainerResumesAfterClientDisconnect: a client disconnects while the stopped guest
// freezes a container. The container can be thawed.
func TestPausedContainerResumesAfterClientDisconnect(t *testing.T) {
	s := newStage(t)
	s.Start(t, "first", nil)
	machine := strconv.Itoa(s.Marked(t, "first", "qemu-system"))
	s.Place.Run(t, "kill", "-STOP", machine)
	if r := s.Run(t, "--timeout", clientTimeout, "task", "pause", "first"); r.Code == 0 {
		t.Error("a stopped guest has frozen a container")
	}
	s.Place.Run(t, "kill", "-CONT", machine)
	if wrong := host.Await(host.Patience, func() string {
		if r := s.Run(t, "task", "resume", "first"); r.Code != 0 {
			return r.Stderr
		}
		return ""
	}); wrong != "" {
		t.Errorf("resume: %s", wrong)
	}
	s.Must(t, "task", "exec", "--exec-id", "x", "first", "true")
}
