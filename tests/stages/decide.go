// SPDX-License-Identifier: Apache-2.0

package stages

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

// Phase is where a stage stands.
type Phase int

// The phases of a stage. All but Waiting and Running are final.
const (
	Waiting Phase = iota
	Running
	Passed
	Failed
	NotRun
)

// Status is a stage's phase and times, measured from the start of the run.
type Status struct {
	Phase Phase
	Began time.Duration // Running and later
	Took  time.Duration // Passed and Failed
}

// Plan is all that the order of stages depends on.
type Plan struct {
	Stages     []Stage
	Statuses   map[string]Status // none: Waiting
	Estimates  map[string]time.Duration
	Processors int
	Total      time.Duration // the whole run, from its start; nothing runs after it
	Cold       bool          // something slow has to be built: optional stages may be left out
	LeftOut    []string      // stages that the last run left out: they start first
	Turn       []string      // optional stages, the one that is due first when time is short
}

// Launch is a stage to be started now.
type Launch struct {
	Stage Stage
	About time.Duration // how long it will take
	Limit time.Duration // it is ended then
	Grant time.Duration // how long an elastic stage should work
}

// Decision is what to do now.
type Decision struct {
	Start  []Launch
	NotRun map[string]string // stages that will not run, with the reason
}

// Decide is the one place where it is decided what fits and in which order. It is asked at the
// start of the run and whenever a stage has ended.
//
// Stages start in their order, side by side as far as their weights allow. One that the last run
// left out starts before all others: where it waits for both processors, only a stage that does not
// delay it takes the free one. When the rest does not fit any more, optional stages of a cold
// machine wait for all others, and each starts only if it still ends in time.
func Decide(p Plan, now time.Duration) Decision {
	d := Decision{NotRun: map[string]string{}}
	p = p.without(d.NotRun, now)
	waiting, free := p.order(now), p.free(p.in(Running))
	tight, kept := p.tight(now), time.Duration(math.MaxInt64)
	for _, s := range waiting {
		switch {
		case !p.ready(s):
		case p.weight(s) > free[s.Background]:
			if slices.Contains(p.LeftOut, s.Name) {
				kept = min(kept, p.simulate(nil, now)) // when the processors are free for it
			}
		case now+p.scaled(s) > kept && !s.Background:
		case tight && p.Cold && s.Optional && !p.fits(s, now):
			if len(p.in(Running)) == 0 && len(d.Start) == 0 && !p.requiredWait() {
				d.NotRun[s.Name] = fmt.Sprintf("the machine is cold: it needs about %s, and %s are left",
					seconds(p.estimate(s)), seconds(p.Total-now))
			}
		default:
			d.Start = append(d.Start, p.launch(s, now))
			free[s.Background] -= p.weight(s)
		}
	}
	if len(d.Start) == 0 && len(p.in(Running)) == 0 && len(d.NotRun) == 0 { // else the next decision has the reason
		for _, s := range waiting {
			if _, said := d.NotRun[s.Name]; !said {
				d.NotRun[s.Name] = "what it needs (" + strings.Join(s.Needs, ", ") + ") never ends"
			}
		}
	}
	return d
}

// without takes out the stages that cannot run any more, and says why in reasons.
func (p Plan) without(reasons map[string]string, now time.Duration) Plan {
	for again := true; again; { // until no stage takes another with it
		again = false
		for _, s := range p.in(Waiting) {
			if reasons[s.Name] != "" {
				continue
			}
			if reasons[s.Name] = p.hindrance(s, reasons, now); reasons[s.Name] != "" {
				again = true
			} else {
				delete(reasons, s.Name)
			}
		}
	}
	p.Stages = slices.DeleteFunc(slices.Clone(p.Stages), func(s Stage) bool { return reasons[s.Name] != "" })
	return p
}

// hindrance says why s cannot run any more, and nothing if it can.
func (p Plan) hindrance(s Stage, reasons map[string]string, now time.Duration) string {
	for _, need := range s.Needs {
		switch {
		case p.Statuses[need].Phase == Failed:
			return "needs " + need + ", which failed"
		case p.Statuses[need].Phase == NotRun || reasons[need] != "":
			return "needs " + need + ", which did not run"
		}
	}
	if p.Total <= now {
		return fmt.Sprintf("no time was left after %s", seconds(now))
	}
	return ""
}

// order is that of the stages that wait: the ones that were left out last time, then all others in
// their own order; when time is short on a cold machine, the optional ones come last, by turn.
func (p Plan) order(now time.Duration) []Stage {
	waiting, late := p.in(Waiting), p.Cold && p.tight(now)
	rank := func(s Stage) int {
		switch {
		case slices.Contains(p.LeftOut, s.Name):
			return -1
		case late && s.Optional:
			return 1 + max(slices.Index(p.Turn, s.Name), 0)
		}
		return 0
	}
	slices.SortStableFunc(waiting, func(a, b Stage) int { return cmp.Compare(rank(a), rank(b)) })
	return waiting
}

func (p Plan) launch(s Stage, now time.Duration) Launch {
	l := Launch{Stage: s, About: p.estimate(s), Limit: max(min(s.Limit, p.Total-now), time.Second)}
	if s.Elastic > 0 {
		spare := p.Total - p.Forecast(now)
		l.Grant = min(max(p.estimate(s)+spare, s.Elastic), s.Budget, l.Limit)
	}
	return l
}

// Forecast is when the run ends if every stage takes as long as estimated, on the scale of those
// that have already ended.
func (p Plan) Forecast(now time.Duration) time.Duration {
	return p.simulate(p.in(Waiting), now)
}

func (p Plan) tight(now time.Duration) bool { return p.Forecast(now) > p.Total }

// fits tells whether s still ends in time when it starts now and all that may not be left out
// follows.
func (p Plan) fits(s Stage, now time.Duration) bool {
	list := []Stage{s}
	for _, other := range p.in(Waiting) {
		if !other.Optional && other.Name != s.Name {
			list = append(list, other)
		}
	}
	return p.simulate(list, now) <= p.Total
}

// simulate plays the stages that run and those of list, in that order, and returns the end of the
// last.
func (p Plan) simulate(list []Stage, now time.Duration) time.Duration {
	type span struct {
		stage Stage
		end   time.Duration
	}
	var running []span
	ends := map[string]time.Duration{}
	free := p.free(p.in(Running))
	for _, s := range p.in(Running) {
		end := max(now, p.Statuses[s.Name].Began+p.scaled(s))
		running, ends[s.Name] = append(running, span{s, end}), end
	}
	list, clock := slices.Clone(list), now
	pending := func(s Stage) bool { // a need that has not ended at clock
		return slices.ContainsFunc(slices.Concat(s.Needs, s.After), func(need string) bool {
			waits := slices.ContainsFunc(list, func(other Stage) bool { return other.Name == need })
			return waits || ends[need] > clock
		})
	}
	for {
		i := slices.IndexFunc(list, func(s Stage) bool { return p.weight(s) <= free[s.Background] && !pending(s) })
		if i >= 0 {
			s := list[i]
			running, ends[s.Name] = append(running, span{s, clock + p.scaled(s)}), clock+p.scaled(s)
			free[s.Background] -= p.weight(s)
			list = slices.Delete(list, i, i+1)
			continue
		}
		if len(running) == 0 {
			return clock // what is left needs what never comes
		}
		slices.SortFunc(running, func(a, b span) int { return cmp.Compare(a.end, b.end) })
		clock = running[0].end
		free[running[0].stage.Background] += p.weight(running[0].stage)
		running = running[1:]
	}
}

// scaled is the estimate of s on the scale of the stages that have ended: a slow machine is slow
// for all.
func (p Plan) scaled(s Stage) time.Duration {
	var took, estimated time.Duration
	for _, done := range p.in(Passed) {
		took, estimated = took+p.Statuses[done.Name].Took, estimated+p.estimate(done)
	}
	if estimated < time.Minute || took < estimated {
		return p.estimate(s)
	}
	return time.Duration(float64(p.estimate(s)) * float64(took) / float64(estimated))
}

func (p Plan) estimate(s Stage) time.Duration {
	if known, ok := p.Estimates[s.Name]; ok {
		return known
	}
	return s.Warm
}

func (p Plan) in(phase Phase) []Stage {
	return slices.DeleteFunc(slices.Clone(p.Stages), func(s Stage) bool { return p.Statuses[s.Name].Phase != phase })
}

func (p Plan) ready(s Stage) bool {
	if slices.ContainsFunc(s.Needs, func(need string) bool { return p.Statuses[need].Phase != Passed }) {
		return false
	}
	open := slices.Concat(p.in(Waiting), p.in(Running))
	return !slices.ContainsFunc(open, func(other Stage) bool { return slices.Contains(s.After, other.Name) })
}

func (p Plan) requiredWait() bool {
	return slices.ContainsFunc(p.in(Waiting), func(s Stage) bool { return !s.Optional })
}

// free is what the stages of running leave: of the processors, and (true) of the one place in the
// background.
func (p Plan) free(running []Stage) map[bool]int {
	free := map[bool]int{false: p.Processors, true: 1}
	for _, s := range running {
		free[s.Background] -= p.weight(s)
	}
	return free
}

// weight is at most the number of processors: on a small machine everything runs alone.
func (p Plan) weight(s Stage) int { return min(max(s.Weight, 1), p.Processors) }

func seconds(d time.Duration) string { return fmt.Sprintf("%d s", int(d.Round(time.Second).Seconds())) }
