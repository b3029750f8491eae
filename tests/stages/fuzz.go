// SPDX-License-Identifier: Apache-2.0

package stages

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// LeastFuzz is the shortest time for which a fuzz test is worth its build.
const LeastFuzz = 3 * time.Second

// FuzzOrder orders fuzz tests: the one that ran longest ago first. last holds seconds of the epoch.
func FuzzOrder(targets []string, last map[string]int64) []string {
	order := slices.Clone(targets)
	slices.SortFunc(order, func(a, b string) int {
		return cmp.Or(cmp.Compare(last[a], last[b]), cmp.Compare(a, b))
	})
	return order
}

// FuzzTime is how long the next fuzz test runs: at most most, at least LeastFuzz, and 0 if not even
// that fits. left is the time for all tests that wait; overhead is what each takes beside its own
// time.
func FuzzTime(left time.Duration, waiting, jobs int, overhead, most time.Duration) time.Duration {
	if left < LeastFuzz+overhead {
		return 0
	}
	share := left*time.Duration(jobs)/time.Duration(waiting) - overhead
	return max(LeastFuzz, min(most, share)).Truncate(time.Second)
}

// Deadline tells whether go test -fuzz failed for no other reason than the end of its own time. Go
// before 1.27 may take that for a failure of the target (go.dev/issue/75804): it reports nothing
// but "context deadline exceeded", no input, and no panic. The lines, of go test -json, are
// returned with the test passed.
func Deadline(lines []string) ([]string, bool) {
	var test event
	var said []string
	var rest []string
	for _, line := range lines {
		var e event
		if json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
			return lines, false // something that no test said
		}
		switch {
		case e.Action == "fail" && e.Test != "":
			test = e
		case e.Action == "fail" || e.Test == "" && e.Action == "output":
			// The package fails as its test does.
		default:
			rest = append(rest, line)
			if text := strings.TrimSpace(e.Output); text != "" && !progress(text) {
				said = append(said, text)
			}
		}
	}
	if test.Test == "" || !slices.Equal(said, []string{"context deadline exceeded"}) {
		return lines, false
	}
	test.Action = "pass"
	passed, err := json.Marshal(test)
	if err != nil {
		return lines, false
	}
	return append(rest, string(passed)), true
}

// progress tells whether a line is one that every fuzz test prints.
func progress(text string) bool {
	return strings.HasPrefix(text, "=== RUN") || strings.HasPrefix(text, "fuzz: elapsed:") || strings.HasPrefix(text, "--- FAIL: Fuzz")
}
