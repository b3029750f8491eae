// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestStatOf(t *testing.T) {
	const line = "42 (a ) b) D 1 42 42 0 -1 4194560 100 0 0 0 150 50 0 0 20 0 1 0 100 1 1\n"
	if state, cpu := statOf([]byte(line)); state != "D" || cpu != 2*time.Second {
		t.Errorf("statOf = %s, %s, want D, 2s", state, cpu)
	}
	if state, cpu := statOf(nil); state != "" || cpu != 0 {
		t.Errorf("statOf of nothing = %s, %s", state, cpu)
	}
	for threads(os.Getpid()).cpu == 0 { // until the kernel has counted a first tick
		_ = strings.Repeat("x", 1000)
	}
}

// TestStopped tells a process that a signal has stopped from one that runs.
func TestStopped(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "100")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Wait() }()
	defer func() { _ = cmd.Process.Kill() }()
	if threads(cmd.Process.Pid).stopped() {
		t.Error("a process that runs counts as stopped")
	}
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	for !threads(cmd.Process.Pid).stopped() { // until the signal has reached it
		time.Sleep(time.Millisecond)
	}
	if threads(1 << 30).stopped() {
		t.Error("a process that is not there counts as stopped")
	}
}
