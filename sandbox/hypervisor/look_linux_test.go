// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"os"
	"strings"
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
