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

// Outcome is a whole run.
type Outcome struct {
	Stages   []Stage
	Statuses map[string]Status
	Results  map[string]Results
	NotRun   map[string]string // stage of Stages -> reason
	Left     map[string]string // stage that is not in Stages -> reason
	Lost     []string          // lines about lost machines, of this and the last runs
	TooOften []string          // tests that had too many of them
	Cold     bool
	Took     time.Duration
}

// Announce says at the start of a run what it will run and about how long that takes.
func Announce(p Plan) []string {
	kind := "with warm caches"
	if p.Cold {
		kind = "with cold caches"
	}
	lines := []string{fmt.Sprintf("%d stages on %d processors %s: about %s, at most %s", len(p.Stages),
		p.Processors, kind, minutes(p.Forecast(0)), minutes(p.Total))}
	for _, s := range p.Stages {
		lines = append(lines, fmt.Sprintf("  %-12s %6s  %s", s.Name, seconds(p.estimate(s)), s.About))
	}
	if len(p.LeftOut) > 0 {
		lines = append(lines, "first, since the last run left them out: "+strings.Join(p.LeftOut, ", "))
	}
	if p.Cold && len(p.Turn) > 0 {
		lines = append(lines, "if time is short, in this order (changed since they last passed, then longest ago): "+
			strings.Join(p.Turn, ", "))
	}
	return lines
}

// Summary is what one stage that has ended leaves on the terminal.
func Summary(s Stage, status Status, r Results, log string) []string {
	lines := []string{"== " + s.Name}
	lines = append(lines, r.Closing...)
	for _, lost := range r.Lost {
		lines = append(lines, s.Name+": "+lost)
	}
	if status.Phase == Failed {
		lines = append(lines, "-- from "+log+":")
		for _, failure := range r.Failures {
			lines = append(lines, "--- FAIL: "+cmp.Or(strings.TrimSpace(failure.Package+" "+failure.Test), s.Name))
			lines = append(lines, strings.Split(strings.TrimRight(failure.Text, "\n"), "\n")...)
		}
	}
	verdict := "passed"
	switch status.Phase {
	case Failed:
		verdict = "FAILED"
	case NotRun:
		verdict = "CUT OFF"
	case Waiting, Running, Passed:
	}
	over := ""
	if status.Took > s.Budget {
		over = ", exceeded"
	}
	return append(lines, fmt.Sprintf("%s: %s in %s (budget %s%s)", s.Name, verdict, seconds(status.Took), seconds(s.Budget), over))
}

// Closing is the end of a run: what was skipped, which machines were lost, what did not run, each
// with its reason, and the counts. Readers look for the last line.
func Closing(o Outcome) []string {
	lines := []string{"== closing"}
	var passed, failed, skipped, good, bad int
	for _, s := range o.Stages {
		r := o.Results[s.Name]
		passed, failed, skipped = passed+r.Passed, failed+r.Failed, skipped+r.Skipped
		switch o.Statuses[s.Name].Phase {
		case Passed:
			good++
		case Failed:
			bad++
			lines = append(lines, "failed: "+s.Name)
		case Waiting, Running, NotRun:
		}
		for _, skip := range r.Skips {
			lines = append(lines, fmt.Sprintf("skipped: %s %s: %s", s.Name, skip.Test, skip.Text))
		}
		for _, part := range r.NotRun {
			lines = append(lines, "not run: "+s.Name+", in part: "+part)
		}
	}
	for _, line := range o.Lost {
		lines = append(lines, "lost machine: "+line)
	}
	for _, test := range o.TooOften {
		lines = append(lines, fmt.Sprintf("failed: %s lost its machine in more than %d of the last %d runs: find out why",
			test, MostLost, Kept))
		failed++
	}
	for _, s := range o.Stages {
		if reason, ok := o.NotRun[s.Name]; ok {
			lines = append(lines, "not run: "+s.Name+": "+reason)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(o.Left)) {
		lines = append(lines, "not run: "+name+": "+o.Left[name])
	}
	return append(lines,
		fmt.Sprintf("stages: %d, of these passed: %d, failed: %d, not run: %d", len(o.Stages)+len(o.Left),
			good, bad, len(o.NotRun)+len(o.Left)),
		"total: "+seconds(o.Took),
		fmt.Sprintf("%d passed, %d failed, %d skipped", passed, failed, skipped))
}

// OK tells whether the run passed: no test and no stage failed, none lost its machine too often,
// and what did not run is optional on a cold machine.
func (o Outcome) OK() bool {
	if len(o.TooOften) > 0 {
		return false
	}
	return !slices.ContainsFunc(o.Stages, func(s Stage) bool {
		switch o.Statuses[s.Name].Phase {
		case Passed:
			return o.Results[s.Name].Failed > 0
		case NotRun:
			return !o.Cold || !s.Optional || !o.timely(s)
		case Waiting, Running, Failed:
		}
		return true
	})
}

// timely tells that s did not run for lack of time, and not because of another stage.
func (o Outcome) timely(s Stage) bool {
	return !slices.ContainsFunc(s.Needs, func(need string) bool { return o.Statuses[need].Phase != Passed })
}

func minutes(d time.Duration) string {
	return fmt.Sprintf("%d min", int(d.Round(time.Minute).Minutes()))
}
