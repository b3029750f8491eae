// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
)

func TestRaiseOOMScore(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "sleep", "1000")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}()
	score := func() int {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(string(data)))
		if err != nil {
			t.Fatal(err)
		}
		return n
	}
	for _, tt := range []struct{ ask, want int }{{500, 500}, {600, 600}, {0, 600}, {-1000, 600}} {
		if err := raiseOOMScore(cmd.Process.Pid, tt.ask); err != nil {
			t.Fatal(err)
		}
		if got := score(); got != tt.want {
			t.Errorf("after asking for %d the score is %d, want %d", tt.ask, got, tt.want)
		}
	}
}
