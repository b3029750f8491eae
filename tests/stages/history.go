// SPDX-License-Identifier: Apache-2.0

package stages

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"time"
)

// Kept is how many runs the history holds, and MostLost in how many of them a lab may have lost its
// machine.
const (
	Kept     = 10
	MostLost = 1
)

// Record is what a run leaves in the cache.
type Record struct {
	Began  time.Time          `json:"began"`
	Commit string             `json:"commit"`
	Passed map[string]float64 `json:"passed"` // stage -> seconds
	Failed []string           `json:"failed,omitempty"`
	NotRun []string           `json:"not_run,omitempty"`
	Lost   []string           `json:"lost,omitempty"` // the stages whose machine was lost: scenarios ran again on another
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

// LostMachines counts the lost machines of the runs that are kept, by stage, and lists the stages
// that had too many.
func (h History) LostMachines() (lines, tooMany []string) {
	counts := map[string]int{}
	for _, r := range h {
		names := slices.Clone(r.Lost)
		slices.Sort(names)
		for _, name := range slices.Compact(names) {
			counts[name]++
		}
	}
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		lines = append(lines, fmt.Sprintf("%s: in %d of the last %d runs", name, counts[name], len(h)))
		if counts[name] > MostLost {
			tooMany = append(tooMany, name)
		}
	}
	return lines, tooMany
}
