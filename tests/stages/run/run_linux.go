// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloister/tests/stages"
	"cloister/tests/testenv"
)

// logs is the folder of the stages' output.
const logs = "build/log"

// runner is one run.
type runner struct {
	out      io.Writer
	all      []stages.Stage // that there are
	module   string
	packages []string
	began    time.Time
	plan     stages.Plan
	results  map[string]stages.Results
	notRun   map[string]string
	left     map[string]string // stages that a run of all leaves out, with the reason
	whole    bool              // all stages were asked for: the run is recorded
	history  historyFile
	done     chan ended
}

// ended is a stage's process that has ended.
type ended struct {
	stage   stages.Stage
	results stages.Results
	cut     bool  // the run's time ended it
	err     error // of its process
}

func run(ctx context.Context, names []string) (bool, error) {
	r, err := prepare(ctx, names)
	if err != nil {
		return false, err
	}
	r.say(stages.Announce(r.plan)...)
	r.loop(ctx)
	return r.close(ctx)
}

func prepare(ctx context.Context, names []string) (*runner, error) {
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, err
	}
	total, began, err := times()
	if err != nil {
		return nil, err
	}
	if len(names) == 0 {
		names = []string{"all"}
	}
	all := stages.All()
	chosen, err := stages.Select(all, names...)
	if err != nil {
		return nil, err
	}
	if os.Getenv("FUZZTIME") != "" { // a time for each fuzz test that somebody chose: however long that takes
		for i := range chosen {
			if chosen[i].Elastic > 0 {
				chosen[i].Limit = total
			}
		}
	}
	r := &runner{
		out: os.Stdout, all: all, began: began, whole: stages.Whole(all, chosen) && os.Getenv("TESTS") == "",
		results: map[string]stages.Results{}, notRun: map[string]string{}, done: make(chan ended),
		history: historyFile(filepath.Join(testenv.Cache(), "ci", "history.json")),
	}
	if r.module, r.packages, err = packages(ctx); err != nil {
		return nil, err
	}
	past, err := r.history.read()
	if err != nil {
		r.say("stages: the last runs are not known: " + err.Error())
	}
	estimates := past.Estimates(chosen, missing)
	r.plan = stages.Plan{
		Stages: chosen, Statuses: map[string]stages.Status{}, Estimates: estimates, Processors: min(runtime.NumCPU(), 2),
		Total: total, Turn: past.Turn(chosen, changed(ctx)),
	}
	if r.whole {
		r.left = stages.Left(all, r.plan.Turn)
		r.plan.Stages = slices.DeleteFunc(r.plan.Stages, func(s stages.Stage) bool { return r.left[s.Name] != "" })
		r.plan.LeftOut = past.LeftOut()
	}
	r.plan.Cold = slices.ContainsFunc(r.plan.Stages, func(s stages.Stage) bool { return slices.ContainsFunc(s.Caches, missing) })
	return r, nil
}

// times reads how long the run may take, and when it began.
func times() (total time.Duration, began time.Time, err error) {
	total, began = 84*time.Minute, time.Now()
	if text := os.Getenv("CLOISTER_MINUTES"); text != "" {
		m, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return 0, began, fmt.Errorf("CLOISTER_MINUTES: %w", err)
		}
		total = time.Duration(m * float64(time.Minute))
	}
	if text := os.Getenv("CLOISTER_BEGAN"); text != "" {
		s, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return 0, began, fmt.Errorf("CLOISTER_BEGAN: %w", err)
		}
		began = time.Unix(s, 0)
	}
	return total, began, nil
}

// packages lists the module's packages.
func packages(ctx context.Context) (module string, names []string, err error) {
	out, err := exec.CommandContext(ctx, "go", "list", "-f", "{{.Module.Path}} {{.ImportPath}}", "./...").Output()
	if err != nil {
		return "", nil, fmt.Errorf("list the packages: %w: %s", err, stderr(err))
	}
	for line := range strings.Lines(string(out)) {
		first, name, _ := strings.Cut(strings.TrimSpace(line), " ")
		module, names = first, append(names, name)
	}
	return module, names, nil
}

func stderr(err error) string {
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		return string(exit.Stderr)
	}
	return ""
}

// missing tells whether the cache lacks a folder, or has nothing finished in it.
func missing(folder string) bool {
	entries, err := os.ReadDir(filepath.Join(testenv.Cache(), folder))
	return err != nil || !slices.ContainsFunc(entries, func(e os.DirEntry) bool {
		return !strings.HasPrefix(e.Name(), ".") && !strings.HasSuffix(e.Name(), ".lock") && !strings.HasSuffix(e.Name(), ".work")
	})
}

// changed tells whether the folders of a stage's tests differ from a commit's.
func changed(ctx context.Context) func(stage, commit string) bool {
	return func(stage, commit string) bool {
		args := []string{"diff", "--quiet", commit, "--"}
		for _, s := range stages.All() {
			if s.Name == stage {
				for _, pattern := range s.Tests {
					args = append(args, strings.TrimSuffix(pattern, "/..."))
				}
			}
		}
		return commit == "" || exec.CommandContext(ctx, "git", args...).Run() != nil
	}
}

func commit(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "rev-parse", "HEAD").Output()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(out))
}

func (r *runner) now() time.Duration { return time.Since(r.began) }

// loop starts what is decided and waits for what ends, until nothing is left to do.
func (r *runner) loop(ctx context.Context) {
	running := 0
	for {
		running += r.step(ctx)
		if running == 0 {
			return
		}
		e := <-r.done
		running--
		r.settle(e)
	}
}

// step starts the stages that may start now, and returns how many.
func (r *runner) step(ctx context.Context) int {
	started := 0
	for {
		d := stages.Decide(r.plan, r.now())
		if ctx.Err() != nil {
			d = r.interrupted()
		}
		for _, launch := range d.Start {
			r.plan.Statuses[launch.Stage.Name] = stages.Status{Phase: stages.Running, Began: r.now()}
			r.say(fmt.Sprintf("-- %s starts at %d s, about %d s", launch.Stage.Name, int(r.now().Seconds()), int(launch.About.Seconds())))
			go r.execute(ctx, launch, os.Getenv("TESTS"))
		}
		for name, reason := range d.NotRun {
			r.plan.Statuses[name] = stages.Status{Phase: stages.NotRun}
			r.notRun[name] = reason
			r.say("-- " + name + " is not run: " + reason)
		}
		started += len(d.Start)
		if len(d.Start) == 0 && len(d.NotRun) == 0 {
			return started
		}
	}
}

// interrupted gives up what waits.
func (r *runner) interrupted() stages.Decision {
	d := stages.Decision{NotRun: map[string]string{}}
	for _, s := range r.plan.Stages {
		if r.plan.Statuses[s.Name].Phase == stages.Waiting {
			d.NotRun[s.Name] = "the run was interrupted"
		}
	}
	return d
}

// settle takes over what a stage has come to, and prints it.
func (r *runner) settle(e ended) {
	status := r.plan.Statuses[e.stage.Name]
	status.Phase, status.Took = stages.Passed, r.now()-status.Began
	switch {
	case e.err == nil && e.results.Failed == 0:
	case e.cut && r.plan.Cold && e.stage.Optional && e.results.Failed == 0:
		status.Phase = stages.NotRun
		r.notRun[e.stage.Name] = fmt.Sprintf("the machine is cold, and the run's time ended it after %.0f s: %d tests had "+
			"passed, none had failed", status.Took.Seconds(), e.results.Passed)
	default:
		status.Phase = stages.Failed
		if e.results.Failed == 0 { // none of its tests: the stage itself
			e.results.Failed = 1
			e.results.Failures = []stages.Told{{Text: tail(logFile(e.stage.Name)) + "\n" + e.err.Error()}}
		}
	}
	r.plan.Statuses[e.stage.Name], r.results[e.stage.Name] = status, e.results
	// A cache that was there may have held another version: what took long was built.
	if len(e.stage.Caches) > 0 && !slices.ContainsFunc(e.stage.Tests, func(string) bool { return true }) && status.Took > 3*e.stage.Budget {
		r.plan.Cold = true
	}
	r.say(stages.Summary(e.stage, status, e.results, logFile(e.stage.Name))...)
}

// close records the run and prints its end.
func (r *runner) close(ctx context.Context) (bool, error) {
	o := stages.Outcome{
		Stages: r.plan.Stages, Statuses: r.plan.Statuses, Results: r.results, NotRun: r.notRun,
		Left: r.left, Cold: r.plan.Cold, Took: r.now(),
	}
	record := r.record(ctx)
	past, err := r.history.update(func(h stages.History) stages.History {
		if r.whole {
			return h.Add(record)
		}
		return h
	})
	if err != nil {
		r.say("stages: the run is not recorded: " + err.Error())
		past = past.Add(record)
	}
	if r.whole {
		o.Lost, o.TooOften = past.LostMachines()
	}
	r.say(stages.Closing(o)...)
	return o.OK(), nil
}

func (r *runner) record(ctx context.Context) stages.Record {
	record := stages.Record{Began: r.began, Commit: commit(context.WithoutCancel(ctx)), Passed: map[string]float64{}}
	for _, s := range r.plan.Stages {
		switch status := r.plan.Statuses[s.Name]; status.Phase {
		case stages.Passed:
			record.Passed[s.Name] = status.Took.Seconds()
		case stages.Failed:
			record.Failed = append(record.Failed, s.Name)
		case stages.NotRun, stages.Waiting, stages.Running:
			if s.Optional {
				record.NotRun = append(record.NotRun, s.Name)
			}
		}
		if len(r.results[s.Name].Lost) > 0 {
			record.Lost = append(record.Lost, s.Name)
		}
	}
	return record
}

func (r *runner) say(lines ...string) {
	fmt.Fprintln(r.out, strings.Join(lines, "\n"))
}
