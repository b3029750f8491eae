// SPDX-License-Identifier: Apache-2.0

package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/host"
	"cloister/tests/testenv"
)

// TestMetricsCountStartsAndFailures: a shim's start and another's failure are both in the metrics,
// after both shims have gone.
func TestMetricsCountStartsAndFailures(t *testing.T) {
	if !isCloister() {
		t.Skip("runc counts nothing")
	}
	b := newBed(t, host.Options{})
	metrics := func() string {
		cmd := b.Place.Command(t.Context(), filepath.Join(testenv.Build(t), "cloister"), "metrics")
		cmd.Env = b.Env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("metrics: %v\n%s", err, out)
		}
		return string(out)
	}
	b.Start(t, "counted", nil)
	during := metrics()
	b.Remove(t, "counted")
	if r := b.run(t, "broken", []string{"--mount", "type=bind,src=/nonexistent,dst=/x,options=rbind:ro"}, "true"); r.Code == 0 {
		t.Fatal("a container with a mount of nothing started")
	}
	b.NothingLeft(t, b.before)
	after := metrics()
	for _, tt := range []struct{ name, text, want string }{
		{"running", during, `cloister_sandboxes{class="vm",state="running"} 1`},
		{"started", during, `cloister_starts_total{class="vm"} 1`},
		{"phase", during, `cloister_start_phase_duration_seconds_count{phase="kernel"} 1`},
		{"gone", after, `cloister_sandboxes{class="vm",state="running"} 0`},
		{"still counted", after, `cloister_starts_total{class="vm"} 1`},
		{"failed", after, `cloister_start_failures_total{phase="`},
		{"no memory", after, `cloister_memory_bytes{part="qemu"} 0`},
	} {
		if !strings.Contains(tt.text, tt.want) {
			t.Errorf("%s: no %s in\n%s", tt.name, tt.want, tt.text)
		}
	}
}
