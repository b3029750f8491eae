// SPDX-License-Identifier: Apache-2.0

package promql

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/prometheus/model/rulefmt"
)

// TestAlertsFire: each rule's expression has a result where it should have one, after twenty
// minutes of scrapes, and none on a host where all is well. How long a rule waits (`for`) is not
// tried.
func TestAlertsFire(t *testing.T) {
	begin := time.Unix(1_800_000_000, 0)
	well := []string{
		`cloister_label_clashes 0x80`,
		`cloister_denials_logged{verdict="attack"} 0x80`,
		`cloister_denials_logged{verdict="harmless"} 7x80`,
		`cloister_sandboxes{state="running",class="vm"} 3x80`,
		`cloister_sandboxes{state="dead",class="vm"} 0x80`,
		`cloister_start_failures_total{phase="files",reason="missing"} 9x80`,
		`cloister_start_phase_duration_seconds_bucket{phase="kernel",le="5"} 10+1x80`,
		`cloister_start_phase_duration_seconds_bucket{phase="kernel",le="10"} 10+1x80`,
		`cloister_start_phase_duration_seconds_bucket{phase="kernel",le="+Inf"} 10+1x80`,
		`cloister_scrape_success{source="records"} 1x80`,
		fmt.Sprintf(`cloister_scrape_timestamp_seconds %d+15x80`, begin.Unix()),
	}
	// What replaces the lines of a host where all is well, by alert.
	ill := map[string][][]string{
		"CloisterLabelClash": {{`cloister_label_clashes 0x70 1x9`}},
		"CloisterAttack":     {{`cloister_denials_logged{verdict="attack"} 0x70 1x9`}},
		"CloisterStartsFail": {
			{`cloister_start_failures_total{phase="files",reason="missing"} 9x60 10+1x19`},
			{`cloister_start_failures_total{phase="agent",reason="timeout"} _x70 4x9`},
		},
		"CloisterStartsAreSlow": {{`cloister_start_phase_duration_seconds_bucket{phase="kernel",le="5"} 10x80`}},
		"CloisterLeftovers":     {{`cloister_sandboxes{state="dead",class="vm"} 0x70 2x9`}},
		"CloisterMetricsIncomplete": {
			{`cloister_scrape_success{source="records"} 1x70 0x9`},
			{fmt.Sprintf(`cloister_scrape_timestamp_seconds %dx80`, begin.Unix())},
		},
	}
	for _, rule := range readRules(t) {
		if fires(t, rule, well, begin) {
			t.Errorf("%s fires on a host where all is well", rule.Alert)
		}
		if len(ill[rule.Alert]) == 0 {
			t.Errorf("%s: say what makes it fire", rule.Alert)
		}
		for _, lines := range ill[rule.Alert] {
			replaced := slices.DeleteFunc(slices.Clone(well), func(line string) bool {
				name, _, _ := strings.Cut(line, " ")
				return slices.ContainsFunc(lines, func(l string) bool { return strings.HasPrefix(l, name+" ") })
			})
			if !fires(t, rule, append(replaced, lines...), begin) {
				t.Errorf("%s does not fire with %q", rule.Alert, lines)
			}
		}
	}
}

// fires tells whether a rule's expression has a result at the last scrape.
func fires(t *testing.T, rule rulefmt.Rule, lines []string, begin time.Time) bool {
	t.Helper()
	run := readSamples(t, strings.Join(lines, "\n"), begin)
	for _, s := range run.ask(t, rule.Alert, rule.Expr) {
		if len(s.Floats) > 0 && s.Floats[len(s.Floats)-1].T == run.end.UnixMilli() {
			return true
		}
	}
	return false
}
