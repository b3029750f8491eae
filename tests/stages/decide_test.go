// SPDX-License-Identifier: Apache-2.0

package stages

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// fakes are stages small enough to be followed: seconds stand for what takes minutes.
func fakes() []Stage {
	stage := func(name string, weight, warm int, needs ...string) Stage {
		return Stage{
			Name: name, Weight: weight, Warm: time.Duration(warm) * time.Second,
			Limit: time.Duration(2*warm) * time.Second, Needs: needs,
		}
	}
	list := []Stage{
		stage("arch", 1, 10), stage("build", 1, 20), stage("unit", 1, 100),
		stage("guests", 1, 200, "build"), stage("pods", 1, 100, "build"), stage("lab", 2, 300, "build"),
	}
	list[4].Optional, list[5].Optional = true, true
	return list
}

func fakePlan(total int, statuses map[string]Status) Plan {
	return Plan{
		Stages: fakes(), Statuses: statuses, Processors: 2,
		Total: time.Duration(total) * time.Second, Turn: []string{"lab", "pods"},
	}
}

func passed(took int) Status {
	return Status{Phase: Passed, Took: time.Duration(took) * time.Second}
}

func running(began int) Status {
	return Status{Phase: Running, Began: time.Duration(began) * time.Second}
}

func starts(d Decision) []string {
	var names []string
	for _, l := range d.Start {
		names = append(names, l.Stage.Name)
	}
	return names
}

func TestDecide(t *testing.T) {
	done := map[string]Status{"arch": passed(10), "build": passed(20)}
	with := func(more map[string]Status) map[string]Status {
		all := map[string]Status{}
		for _, m := range []map[string]Status{done, more} {
			maps.Copy(all, m)
		}
		return all
	}
	tests := []struct {
		name   string
		plan   Plan
		change func(*Plan)
		now    int
		want   []string
		notRun map[string]string // stage -> part of the reason
	}{
		{name: "two side by side", plan: fakePlan(1000, nil), want: []string{"arch", "build"}},
		{
			name: "what needs nothing starts beside the build",
			plan: fakePlan(1000, map[string]Status{"arch": passed(10), "build": running(0)}), now: 10, want: []string{"unit"},
		},
		{
			name: "a free processor takes the next", plan: fakePlan(1000, with(map[string]Status{"unit": running(10)})),
			now: 20, want: []string{"guests"},
		},
		{
			name: "after one that still runs", plan: fakePlan(1000, with(map[string]Status{"guests": running(20)})),
			change: func(p *Plan) { p.Stages[2].After = []string{"guests"} }, now: 20, want: []string{"pods"},
		},
		{
			name: "after one that failed", plan: fakePlan(1000, with(map[string]Status{"guests": {Phase: Failed}})),
			change: func(p *Plan) { p.Stages[2].After = []string{"guests"} }, now: 20, want: []string{"unit", "pods"},
		},
		{
			name: "after one that the run has not", plan: fakePlan(1000, done),
			change: func(p *Plan) { p.Stages[2].After = []string{"kernel"} }, now: 20, want: []string{"unit", "guests"},
		},
		{name: "both busy", plan: fakePlan(1000, with(map[string]Status{"unit": running(10), "guests": running(20)})), now: 30},
		{
			name: "the lab waits for both processors",
			plan: fakePlan(1000, with(map[string]Status{"unit": passed(100), "guests": passed(200), "pods": running(110)})), now: 220,
		},
		{name: "the lab is alone", plan: fakePlan(1000,
			with(map[string]Status{"unit": passed(100), "guests": passed(200), "pods": passed(100)})), now: 220, want: []string{"lab"}},
		{
			name:   "the background beside two guests",
			plan:   fakePlan(1000, with(map[string]Status{"guests": running(20), "pods": running(20)})),
			change: func(p *Plan) { p.Stages[2].Background = true }, now: 30, want: []string{"unit"},
		},
		{
			name: "one at a time", plan: fakePlan(1000, with(map[string]Status{"unit": running(10)})),
			change: func(p *Plan) { p.Stages[2].Background, p.Stages[3].Background = true, true }, now: 30, want: []string{"pods"},
		},
		{
			name:   "on one processor all are alone",
			plan:   fakePlan(1000, with(map[string]Status{"unit": passed(100), "guests": passed(200), "pods": passed(100)})),
			change: func(p *Plan) { p.Processors = 1 }, now: 430, want: []string{"lab"},
		},
		{
			name: "what the last run left out is first", plan: fakePlan(1000, done),
			change: func(p *Plan) { p.LeftOut = []string{"lab"} }, now: 20, want: []string{"lab"},
		},
		{
			name: "and the processors are kept for it", plan: fakePlan(1000, with(map[string]Status{"unit": running(10)})),
			change: func(p *Plan) { p.LeftOut = []string{"lab"} }, now: 20,
		},
		{
			name: "while a stage that does not delay it runs", plan: fakePlan(1000, with(map[string]Status{"guests": running(10)})),
			change: func(p *Plan) { p.LeftOut = []string{"lab"} }, now: 20, want: []string{"unit"},
		},
		{
			name: "a failed build stops those that need it",
			plan: fakePlan(1000, map[string]Status{"arch": passed(10), "build": {Phase: Failed}}), now: 20, want: []string{"unit"},
			notRun: map[string]string{
				"guests": "needs build, which failed",
				"pods":   "needs build, which failed", "lab": "needs build, which failed",
			},
		},
		{
			name: "a failed test stops nothing", plan: fakePlan(1000, with(map[string]Status{"unit": {Phase: Failed}})),
			now: 120, want: []string{"guests", "pods"},
		},
		{
			name: "cold and short of time: what must run is first", plan: fakePlan(400, with(map[string]Status{"unit": running(10)})),
			change: func(p *Plan) { p.Cold = true }, now: 20, want: []string{"guests"},
		},
		{
			name:   "cold: an optional one starts where it fits",
			plan:   fakePlan(400, with(map[string]Status{"unit": passed(100), "guests": running(110)})),
			change: func(p *Plan) { p.Cold = true }, now: 120, want: []string{"pods"},
		},
		{
			name:   "cold: what does not fit is left out",
			plan:   fakePlan(400, with(map[string]Status{"unit": passed(100), "guests": passed(200), "pods": passed(100)})),
			change: func(p *Plan) { p.Cold = true }, now: 310, notRun: map[string]string{"lab": "needs about 300 s, and 90 s are left"},
		},
		{
			name: "warm: it starts, and its end is the run's",
			plan: fakePlan(400, with(map[string]Status{"unit": passed(100), "guests": passed(200), "pods": passed(100)})),
			now:  310, want: []string{"lab"},
		},
		{
			name: "time is over", plan: fakePlan(400,
				with(map[string]Status{"unit": passed(100), "guests": passed(200), "pods": {Phase: Failed}})), now: 400,
			notRun: map[string]string{"lab": "no time was left after 400 s"},
		},
		{
			name: "time is over before the build",
			plan: fakePlan(400, map[string]Status{"arch": passed(400), "build": running(0)}), now: 400,
			notRun: map[string]string{"unit": "no time", "guests": "no time", "pods": "no time", "lab": "no time"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.change != nil {
				tt.change(&tt.plan)
			}
			d := Decide(tt.plan, time.Duration(tt.now)*time.Second)
			if diff := cmp.Diff(tt.want, starts(d)); diff != "" {
				t.Errorf("starts (-want +got):\n%s", diff)
			}
			if len(d.NotRun) != len(tt.notRun) {
				t.Errorf("not run: %v, want %v", d.NotRun, tt.notRun)
			}
			for name, reason := range tt.notRun {
				if !strings.Contains(d.NotRun[name], reason) {
					t.Errorf("%s: %q, want %q", name, d.NotRun[name], reason)
				}
			}
		})
	}
}

// play runs a plan with made-up durations and returns the order of starts, and the end.
func play(t *testing.T, p Plan, takes map[string]int) (order []string, notRun map[string]string, end time.Duration) {
	t.Helper()
	now, notRun := time.Duration(0), map[string]string{}
	p.Statuses = map[string]Status{}
	ends, fails := map[string]time.Duration{}, []string{}
	for range 100 {
		for {
			d := Decide(p, now)
			for _, l := range d.Start {
				took := time.Duration(takes[l.Stage.Name]) * time.Second
				if took == 0 {
					took = l.Stage.Warm
				}
				if took > l.Limit {
					took, fails = l.Limit, append(fails, l.Stage.Name)
				}
				order, ends[l.Stage.Name] = append(order, l.Stage.Name), now+took
				p.Statuses[l.Stage.Name] = Status{Phase: Running, Began: now}
			}
			for name, reason := range d.NotRun {
				notRun[name], p.Statuses[name] = reason, Status{Phase: NotRun}
			}
			if len(d.Start) == 0 && len(d.NotRun) == 0 {
				break
			}
		}
		if len(ends) == 0 {
			for name, status := range p.Statuses {
				if status.Phase == Waiting || status.Phase == Running {
					t.Errorf("%s never ended", name)
				}
			}
			return order, notRun, now
		}
		var first string
		for name, at := range ends {
			if first == "" || at < ends[first] || at == ends[first] && name < first {
				first = name
			}
		}
		now = ends[first]
		phase := Passed
		if slices.Contains(fails, first) {
			phase = Failed
		}
		p.Statuses[first] = Status{Phase: phase, Began: p.Statuses[first].Began, Took: now - p.Statuses[first].Began}
		delete(ends, first)
	}
	t.Fatal("the run does not end")
	return nil, nil, 0
}

// whole are the stages of one run of all: one of each group that takes turns.
func whole() []Stage {
	left := Left(All(), nil)
	return slices.DeleteFunc(All(), func(s Stage) bool { return left[s.Name] != "" })
}

func TestWholeRuns(t *testing.T) {
	all := Plan{
		Stages: whole(), Processors: 2, Total: 84 * time.Minute,
		Estimates: History(nil).Estimates(whole(), func(string) bool { return false }),
	}
	order, notRun, end := play(t, all, nil)
	if len(notRun) != 0 || len(order) != len(whole()) {
		t.Errorf("warm: %v ran, %v did not", order, notRun)
	}
	if end > 65*time.Minute { // what a warm run may take
		t.Errorf("warm: ends after %s", end)
	}
	t.Logf("warm: ends after %s: %v", end, order)
	cold := all
	cold.Cold, cold.Estimates = true, History(nil).Estimates(whole(), func(string) bool { return true })
	takes := map[string]int{}
	for _, s := range whole() {
		takes[s.Name] = int((s.Warm + s.Cold).Seconds())
	}
	order, notRun, end = play(t, cold, takes)
	// Too slow for a run that builds all else: the cluster's programs, and the third of the labs.
	for _, name := range []string{"k8s-programs", "k8s", "lab-fedora"} {
		reason, left := notRun[name]
		if left && !strings.Contains(reason, "cold") && !strings.Contains(reason, "k8s-programs, which did not run") {
			t.Errorf("cold: %s did not run: %s", name, reason)
		}
		delete(notRun, name)
	}
	if len(notRun) != 0 || end > cold.Total {
		t.Errorf("cold: %v ran, %v did not, the end is %s", order, notRun, end)
	}
	// A machine half as fast leaves out what may be left out, and nothing else, and still ends in
	// time.
	for name := range takes {
		takes[name] = takes[name] * 5 / 2
	}
	cold.Turn = []string{"lab", "suite", "docker", "cri", "crash"}
	order, notRun, end = play(t, cold, takes)
	if len(notRun) == 0 || end > cold.Total {
		t.Errorf("slow: %v ran, %v did not, the end is %s", order, notRun, end)
	}
	for _, s := range whole() {
		if _, left := notRun[s.Name]; left && !s.Optional {
			t.Errorf("slow: %s is not optional and did not run: %s", s.Name, notRun[s.Name])
		}
	}
	// The next run begins with them, as soon as what they need is there. What does not delay them,
	// as machine and integration, may run beside them.
	next := all
	for _, s := range whole() {
		if _, left := notRun[s.Name]; left {
			next.LeftOut = append(next.LeftOut, s.Name)
		}
	}
	order, _, _ = play(t, next, nil)
	for _, name := range next.LeftOut {
		if slices.Index(order, name) > slices.Index(order, "files") {
			t.Errorf("the run after that starts with %v, want %v before the long ones", order, next.LeftOut)
		}
	}
}

func TestStageThatHangs(t *testing.T) {
	p := fakePlan(10000, nil)
	order, notRun, end := play(t, p, map[string]int{"build": 100000})
	if diff := cmp.Diff([]string{"arch", "build", "unit"}, order); diff != "" {
		t.Errorf("starts (-want +got):\n%s", diff)
	}
	if len(notRun) != 3 || end > 200*time.Second {
		t.Errorf("after %s, not run: %v", end, notRun)
	}
}

func TestTotalBoundsEveryStage(t *testing.T) {
	p := fakePlan(150, nil)
	if _, _, end := play(t, p, map[string]int{"unit": 1000, "guests": 1000}); end > p.Total {
		t.Errorf("the run ends after %s, want %s at most", end, p.Total)
	}
}

func TestElasticStageTakesWhatIsLeft(t *testing.T) {
	stage := Stage{
		Name: "fuzz", Weight: 1, Warm: 400 * time.Second, Elastic: 100 * time.Second,
		Budget: 420 * time.Second, Limit: 800 * time.Second,
	}
	for _, tt := range []struct{ total, want int }{{5000, 420}, {410, 410}, {300, 300}, {120, 120}, {50, 50}} {
		d := Decide(Plan{Stages: []Stage{stage}, Processors: 2, Total: time.Duration(tt.total) * time.Second}, 0)
		if got := int(d.Start[0].Grant.Seconds()); got != tt.want {
			t.Errorf("of %d s: %d s, want %d", tt.total, got, tt.want)
		}
	}
}

func TestForecastFollowsTheMachine(t *testing.T) {
	p := fakePlan(5000, map[string]Status{"arch": passed(30), "build": passed(60), "unit": passed(300)})
	slow := p.Forecast(300 * time.Second)
	p.Statuses = map[string]Status{"arch": passed(10), "build": passed(20), "unit": passed(100)}
	usual := p.Forecast(300 * time.Second)
	if got, want := slow-300*time.Second, 3*(usual-300*time.Second); got != want {
		t.Errorf("on a machine three times as slow %s, want %s", got, want)
	}
}

func TestSelect(t *testing.T) {
	list, err := Select(All(), "lab")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"build", "guest", "clients", "lab"}, Names(list)); diff != "" {
		t.Errorf("Select(lab) (-want +got):\n%s", diff)
	}
	if _, err := Select(All(), "nothing"); err == nil || !strings.Contains(err.Error(), "integration") {
		t.Errorf("Select(nothing): %v, want an error that names the stages", err)
	}
	if Whole(All(), list) {
		t.Error("a run of the lab is taken for a whole one")
	}
	if list, _ := Select(All(), "all"); !Whole(All(), list) {
		t.Error("a run of all is not taken for a whole one")
	}
	byName := slices.DeleteFunc(All(), func(s Stage) bool { return s.ByName == "" })
	if list, err := Select(All(), "all"); err != nil || len(list)+len(byName) != len(All()) {
		t.Errorf("Select(all): %d stages without the %d that run by name only, %v", len(list), len(byName), err)
	}
}

func TestStages(t *testing.T) {
	seen := map[string]bool{}
	for _, s := range All() {
		if seen[s.Name] || s.Name == "" || s.About == "" {
			t.Errorf("stage %q: named twice, or without a word about it", s.Name)
		}
		for _, need := range s.Needs {
			if !seen[need] {
				t.Errorf("stage %s needs %s, which does not come before it", s.Name, need)
			}
		}
		if (len(s.Command) == 0) == (len(s.Tests) == 0) {
			t.Errorf("stage %s: want a command or tests", s.Name)
		}
		if s.Warm <= 0 || s.Warm > s.Budget || s.Warm+s.Cold > s.Limit || s.Weight > 2 || (s.Weight < 1) != s.Background {
			t.Errorf("stage %s: weight %d, warm %s, cold %s, budget %s, limit %s", s.Name, s.Weight, s.Warm, s.Cold, s.Budget, s.Limit)
		}
		seen[s.Name] = true
	}
}

func TestPackages(t *testing.T) {
	packages := []string{
		"cloister/oci", "cloister/tests/arch", "cloister/tests/bench", "cloister/tests/lab",
		"cloister/tests/lab/wire", "cloister/tests/labels",
	}
	list, err := Select(All(), "unit")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"cloister/oci", "cloister/tests/labels"}, Packages(All(), list[0], "cloister", packages)); diff != "" {
		t.Errorf("Packages(unit) (-want +got):\n%s", diff)
	}
}
