// SPDX-License-Identifier: Apache-2.0

package stages

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Kept is how many runs the history holds, and MostAgain in how many of them the same test may have
// had a second try.
const (
	Kept      = 10
	MostAgain = 1
)

// Record is what a run leaves in the cache.
type Record struct {
	Began  time.Time          `json:"began"`
	Commit string             `json:"commit"`
	Passed map[string]float64 `json:"passed"` // stage -> seconds
	Failed []string           `json:"failed,omitempty"`
	NotRun []string           `json:"not_run,omitempty"`
	Again  []string           `json:"again,omitempty"` // "stage test": what had a second try
}

// History is the last runs of all stages, the newest last.
type History []Record

// Add returns the history with one more run, and without those that are too old.
func (h History) Add(r Record) History {
	h = append(slices.Clone(h), r)
	return h[max(0, len(h)-Kept):]
}

// LeftOut lists the stages that the last run did not come to: the next one begins with them.
func (h History) LeftOut() []string {
	if len(h) == 0 {
		return nil
	}
	return h[len(h)-1].NotRun
}

// Estimates says how long stages took when they last passed; a stage that a cache is missing for
// takes longer than that by its cold time. missing tells whether a folder of the cache is.
func (h History) Estimates(all []Stage, missing func(string) bool) map[string]time.Duration {
	estimates := map[string]time.Duration{}
	for _, s := range all {
		estimates[s.Name] = s.Warm
		for _, r := range h {
			if took, ok := r.Passed[s.Name]; ok {
				estimates[s.Name] = time.Duration(took * float64(time.Second))
			}
		}
		if slices.ContainsFunc(s.Caches, missing) {
			estimates[s.Name] = s.Warm + s.Cold
		}
	}
	return estimates
}

// Turn orders the optional stages for a run that has no time for all of them: first those whose
// sources changed since they last passed, then those that passed longest ago.
func (h History) Turn(all []Stage, changed func(stage, commit string) bool) []string {
	type due struct {
		name    string
		changed bool
		passed  int // index of the run
	}
	var list []due
	for _, s := range all {
		if !s.Optional {
			continue
		}
		d := due{s.Name, true, -1}
		for i, r := range h {
			if _, ok := r.Passed[s.Name]; ok {
				d.passed, d.changed = i, changed(s.Name, r.Commit)
			}
		}
		list = append(list, d)
	}
	slices.SortStableFunc(list, func(a, b due) int {
		if a.changed != b.changed {
			if a.changed {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.passed, b.passed)
	})
	var names []string
	for _, d := range list {
		names = append(names, d.name)
	}
	return names
}

// Again counts the second tries of the runs that are kept, by stage and test, and lists the tests
// that had too many.
func (h History) Again() (lines, tooMany []string) {
	counts := map[string]int{}
	for _, r := range h {
		again := slices.Clone(r.Again)
		slices.Sort(again)
		for _, name := range slices.Compact(again) {
			counts[name]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		lines = append(lines, fmt.Sprintf("%s: in %d of the last %d runs", name, counts[name], len(h)))
		if counts[name] > MostAgain {
			tooMany = append(tooMany, name)
		}
	}
	return lines, tooMany
}

// MostTries is how many tests of a whole run may have a second try.
const MostTries = 2

// SecondTries says which tests of which stages run once more. An emulated machine loses a guest now
// and then, and a test cannot tell that from a fault: so only tests in guests, only without
// hardware virtualization, at most MostTries in a run, and none where a stage ended in another way
// than by failed tests, or an attack succeeded. Each is recorded, and counts in History.Again.
func SecondTries(run []Stage, results map[string]Results, emulated bool) map[string][]string {
	tries, count := map[string][]string{}, 0
	for _, s := range run {
		r := results[s.Name]
		if r.Failed == 0 || !s.Guests {
			continue
		}
		if !emulated || r.Panicked || slices.ContainsFunc(r.Closing, attacked) {
			return nil
		}
		for _, failure := range r.Failures {
			test := failure.top()
			switch {
			case test == labTest && slices.ContainsFunc(r.Failures, func(t Told) bool { return t.top() != labTest }):
				continue // it failed because a scenario of its failed
			case test == "" || test == labTest:
				return nil
			}
			if !slices.Contains(tries[s.Name], test) {
				tries[s.Name], count = append(tries[s.Name], test), count+1
			}
		}
	}
	if count > MostTries {
		return nil
	}
	return tries
}

// top is the part of a failed test that can run alone: the top-level test, or a scenario of the
// lab.
func (t Told) top() string {
	parts := strings.SplitN(t.Test, "/", 3)
	if parts[0] != labTest || len(parts) == 1 {
		return parts[0]
	}
	return parts[0] + "/" + parts[1]
}

// labTest is the one test of the lab; its subtests are scenarios that run alone.
const labTest = "TestLab"

// Pattern selects tests for go test -run: top-level ones, or scenarios of the lab.
func Pattern(tests []string) string {
	var names []string
	for _, test := range tests {
		names = append(names, strings.TrimPrefix(test, labTest+"/"))
	}
	pattern := "^(" + strings.Join(names, "|") + ")$"
	if strings.HasPrefix(tests[0], labTest+"/") {
		return "^" + labTest + "$/" + pattern
	}
	return pattern
}

func attacked(line string) bool {
	return strings.HasPrefix(line, "attacks") && !strings.Contains(line, ", 0 succeeded;")
}
