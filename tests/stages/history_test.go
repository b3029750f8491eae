// SPDX-License-Identifier: Apache-2.0

package stages

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestHistoryKeepsTheLastRuns(t *testing.T) {
	var h History
	for i := range 25 {
		h = h.Add(Record{Commit: fmt.Sprint(i)})
	}
	if len(h) != Kept || h[0].Commit != "15" || h[Kept-1].Commit != "24" {
		t.Errorf("%d runs, from %s to %s", len(h), h[0].Commit, h[len(h)-1].Commit)
	}
}

func TestLeftOutIsTheLastRuns(t *testing.T) {
	h := History{{NotRun: []string{"suite"}}, {NotRun: []string{"lab"}}}
	if diff := cmp.Diff([]string{"lab"}, h.LeftOut()); diff != "" {
		t.Error(diff)
	}
	if got := h.Add(Record{}).LeftOut(); len(got) != 0 {
		t.Errorf("after a whole run: %v", got)
	}
}

func TestEstimates(t *testing.T) {
	all := []Stage{
		{Name: "unit", Warm: time.Minute},
		{Name: "lab", Warm: time.Minute, Cold: time.Hour, Caches: []string{"lab"}},
		{Name: "demo", Warm: time.Second},
	}
	h := History{{Passed: map[string]float64{"unit": 50, "lab": 70}}, {Passed: map[string]float64{"lab": 80.5}}}
	there := func(string) bool { return false }
	want := map[string]time.Duration{"unit": 50 * time.Second, "lab": 80500 * time.Millisecond, "demo": time.Second}
	if diff := cmp.Diff(want, h.Estimates(all, there)); diff != "" {
		t.Errorf("warm (-want +got):\n%s", diff)
	}
	want["lab"] = time.Hour + time.Minute
	if diff := cmp.Diff(want, h.Estimates(all, func(folder string) bool { return folder == "lab" })); diff != "" {
		t.Errorf("cold (-want +got):\n%s", diff)
	}
}

func TestTurn(t *testing.T) {
	all := []Stage{
		{Name: "unit"},
		{Name: "never", Optional: true},
		{Name: "long ago", Optional: true},
		{Name: "changed", Optional: true},
		{Name: "just now", Optional: true},
	}
	h := History{
		{Commit: "1", Passed: map[string]float64{"long ago": 1, "just now": 1, "changed": 1}},
		{Commit: "2", Passed: map[string]float64{"just now": 1, "changed": 1}},
	}
	got := h.Turn(all, func(stage, commit string) bool { return stage == "changed" && commit == "2" })
	if diff := cmp.Diff([]string{"never", "changed", "long ago", "just now"}, got); diff != "" {
		t.Errorf("turn (-want +got):\n%s", diff)
	}
}

func TestMachineLostInTwoOfTenRunsIsTooOften(t *testing.T) {
	h := History{{Lost: []string{"lab", "lab"}}, {}, {Lost: []string{"lab-none"}}}
	lines, tooOften := h.LostMachines()
	if diff := cmp.Diff([]string{"lab: in 1 of the last 3 runs", "lab-none: in 1 of the last 3 runs"}, lines); diff != "" {
		t.Error(diff)
	}
	if len(tooOften) != 0 {
		t.Errorf("too often: %v", tooOften)
	}
	_, tooOften = h.Add(Record{Lost: []string{"lab-none"}}).LostMachines()
	if diff := cmp.Diff([]string{"lab-none"}, tooOften); diff != "" {
		t.Error(diff)
	}
	for range Kept {
		h = h.Add(Record{})
	}
	if lines, _ := h.LostMachines(); len(lines) != 0 {
		t.Errorf("after %d good runs: %v", Kept, lines)
	}
}

func TestLeft(t *testing.T) {
	all := []Stage{
		{Name: "unit"},
		{Name: "apps", ByName: "is long"},
		{Name: "lab"},
		{Name: "one", Turns: "labs", Needs: []string{"lab"}},
		{Name: "two", Turns: "labs", Needs: []string{"lab", "parts"}},
		{Name: "parts"},
	}
	for _, tt := range []struct {
		name string
		turn []string
		want map[string]string // stage -> part of the reason
	}{
		{"the first is due", []string{"lab", "one", "two"}, map[string]string{
			"apps": "is long", "two": "takes turns with one, ", "parts": "only two needs it",
		}},
		{"the second is due", []string{"two", "lab", "one"}, map[string]string{"apps": "is long", "one": "takes turns with two, "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := Left(all, tt.turn)
			if len(got) != len(tt.want) {
				t.Errorf("Left() = %v, want those of %v", got, tt.want)
			}
			for name, part := range tt.want {
				if !strings.Contains(got[name], part) {
					t.Errorf("%s is left out because %q, want %q in it", name, got[name], part)
				}
			}
		})
	}
}

func TestClosing(t *testing.T) {
	o := Outcome{
		Stages: []Stage{{Name: "unit"}, {Name: "cri", Optional: true, Needs: []string{"unit"}}, {Name: "lab", Optional: true}},
		Statuses: map[string]Status{
			"unit": {Phase: Passed}, "cri": {Phase: Passed}, "lab": {Phase: NotRun},
		},
		Results: map[string]Results{
			"unit": {Passed: 5, Skipped: 1, Skips: []Told{{"cloister/oci", "TestX", "needs kvm: none"}}},
			"cri":  {Passed: 2, NotRun: []string{"oci:FuzzSpec: no time was left"}},
		},
		NotRun: map[string]string{"lab": "the machine is cold"},
		Lost:   []string{"lab: in 1 of the last 3 runs"}, Cold: true, Took: 90 * time.Second,
	}
	want := strings.Split(`== closing
skipped: unit TestX: needs kvm: none
not run: cri, in part: oci:FuzzSpec: no time was left
lost machine: lab: in 1 of the last 3 runs
not run: lab: the machine is cold
stages: 3, of these passed: 2, failed: 0, not run: 1
total: 90 s
7 passed, 0 failed, 1 skipped`, "\n")
	if diff := cmp.Diff(want, Closing(o)); diff != "" {
		t.Errorf("closing (-want +got):\n%s", diff)
	}
	if !o.OK() {
		t.Error("a cold machine that left out an optional stage failed")
	}
	for name, change := range map[string]func(*Outcome){
		"a warm machine":           func(o *Outcome) { o.Cold = false },
		"a required stage":         func(o *Outcome) { o.Stages = []Stage{{Name: "lab"}} },
		"a failed stage":           func(o *Outcome) { o.Statuses = map[string]Status{"unit": {Phase: Failed}} },
		"a stage that waits":       func(o *Outcome) { o.Statuses = map[string]Status{"unit": {Phase: Passed}, "cri": {Phase: Passed}} },
		"a machine lost too often": func(o *Outcome) { o.TooOften = []string{"lab"} },
		"a stage whose need failed": func(o *Outcome) {
			o.Stages = []Stage{{Name: "lab", Optional: true, Needs: []string{"guest"}}}
		},
	} {
		changed := o
		if change(&changed); changed.OK() {
			t.Errorf("%s: the run passed", name)
		}
	}
}

// TestAnnounce: a run says first what it will run, about how long that takes, and what comes first.
func TestAnnounce(t *testing.T) {
	p := Plan{
		Stages: []Stage{
			{Name: "unit", About: "unit tests", Weight: 1, Warm: 10 * time.Second},
			{Name: "lab", About: "a host", Weight: 2, Optional: true, Warm: time.Second},
		},
		Estimates:  map[string]time.Duration{"unit": 100 * time.Second, "lab": 200 * time.Second},
		Processors: 2, Total: 84 * time.Minute, LeftOut: []string{"lab"}, Turn: []string{"lab"},
	}
	want := strings.Split(`2 stages on 2 processors with warm caches: about 5 min, at most 84 min
  unit          100 s  unit tests
  lab           200 s  a host
first, since the last run left them out: lab`, "\n")
	if diff := cmp.Diff(want, Announce(p)); diff != "" {
		t.Errorf("announcement (-want +got):\n%s", diff)
	}
	p.Cold, p.LeftOut = true, nil
	want[0] = strings.Replace(want[0], "warm", "cold", 1)
	want[3] = "if time is short, in this order (changed since they last passed, then longest ago): lab"
	if diff := cmp.Diff(want, Announce(p)); diff != "" {
		t.Errorf("announcement of a cold run (-want +got):\n%s", diff)
	}
}

// TestSummary: a stage that ended shows its counts, the machines that it lost, its failures with
// what they said, and whether it took longer than its budget.
func TestSummary(t *testing.T) {
	r := Results{
		Closing: []string{"pods: 3 passed, 1 failed, 0 skipped"}, Lost: []string{"machine 1 was lost"},
		Failures: []Told{{"cloister/tests/cri", "TestPod", "no address\n"}},
	}
	s := Stage{Name: "cri", Budget: time.Minute}
	want := strings.Split(`== cri
pods: 3 passed, 1 failed, 0 skipped
cri: machine 1 was lost
-- from build/log/cri.log:
--- FAIL: cloister/tests/cri TestPod
no address
cri: FAILED in 90 s (budget 60 s, exceeded)`, "\n")
	if diff := cmp.Diff(want, Summary(s, Status{Phase: Failed, Took: 90 * time.Second}, r, "build/log/cri.log")); diff != "" {
		t.Errorf("summary (-want +got):\n%s", diff)
	}
	want = []string{"== cri", "cri: passed in 30 s (budget 60 s)"}
	if diff := cmp.Diff(want, Summary(s, Status{Phase: Passed, Took: 30 * time.Second}, Results{}, "")); diff != "" {
		t.Errorf("summary of a stage that passed (-want +got):\n%s", diff)
	}
}

func TestFuzzTakesTurns(t *testing.T) {
	got := FuzzOrder([]string{"c", "b", "a", "d"}, map[string]int64{"a": 30, "b": 10, "c": 20})
	if diff := cmp.Diff([]string{"d", "b", "c", "a"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestFuzzTime(t *testing.T) {
	tests := []struct {
		name                 string
		left, waiting, least int // seconds, tests, seconds
		want                 int
	}{
		{"time enough", 1000, 42, 5, 10},
		{"shared", 400, 80, 5, 5},
		{"short", 60, 42, 5, 3},
		{"none", 7, 42, 5, 0},
		{"the last", 100, 1, 5, 10},
	}
	for _, tt := range tests {
		got := FuzzTime(time.Duration(tt.left)*time.Second, tt.waiting, 2, time.Duration(tt.least)*time.Second, 10*time.Second)
		if int(got.Seconds()) != tt.want {
			t.Errorf("%s: %s, want %d s", tt.name, got, tt.want)
		}
	}
}
