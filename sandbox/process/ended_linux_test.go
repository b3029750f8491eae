// SPDX-License-Identifier: Apache-2.0

package process

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"cloister/tests/testenv"
)

// TestEnded: the name of a program, which is an image's author's, does not make a process that runs
// one that has ended.
func TestEnded(t *testing.T) {
	sleep := filepath.Join(t.TempDir(), "x) Z")
	data, err := os.ReadFile(testenv.NeedTool(t, "sleep"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(sleep, data, 0o700); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), sleep, "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	pid := cmd.Process.Pid
	if over, err := ended(pid); err != nil || over {
		t.Errorf("ended of a process named %q that runs = %t, %v, want false", filepath.Base(sleep), over, err)
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Error(err)
	}
	_ = cmd.Wait() // killed
	if over, err := ended(pid); err != nil || !over {
		t.Errorf("ended of a process that was waited for = %t, %v, want true", over, err)
	}
}
