// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"cloister/tests/stages"
)

// grace is how long a stage that is ended may still clean up.
const grace = 20 * time.Second

func logFile(stage string) string { return filepath.Join(logs, stage+".log") }

// execute runs one stage to its end and tells r.done. Its processes are a group of their own, which
// is ended as a whole.
func (r *runner) execute(ctx context.Context, l stages.Launch, tests string) {
	results, cut, err := r.start(ctx, l, tests)
	r.done <- ended{stage: l.Stage, results: results, cut: cut, err: err}
}

// start runs a stage's process. cut tells that the run's time ended it: the results are then those
// before that.
func (r *runner) start(parent context.Context, l stages.Launch, tests string) (results stages.Results, cut bool, err error) {
	log, err := os.Create(logFile(l.Stage.Name))
	if err != nil {
		return stages.Results{}, false, err
	}
	defer log.Close()
	ctx, cancel := context.WithTimeout(parent, l.Limit)
	defer cancel()
	argv := r.argv(l, tests)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = append(append(os.Environ(), l.Stage.Env...), "CLOISTER_STAGE_SECONDS="+strconv.Itoa(int(l.Grant.Seconds())))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	fold := &folder{log: log}
	var before stages.Results
	cmd.Cancel = func() error {
		before = fold.soFar()
		return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
	}
	cmd.WaitDelay = grace
	out, errs := &lines{to: fold.line}, &lines{to: fold.line}
	cmd.Stdout, cmd.Stderr = out, errs
	err = cmd.Run()
	if cmd.Process != nil {
		// What is left of the group outlives no stage. An error means that nothing is.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	out.flush()
	errs.flush()
	switch {
	case errors.Is(parent.Err(), context.Canceled):
		err = errors.Join(fmt.Errorf("%s: interrupted", l.Stage.Name), err)
	case ctx.Err() != nil:
		what := "its limit of"
		if l.Limit < l.Stage.Limit {
			what, cut = "the last of the run's time,", true
		}
		err = errors.Join(fmt.Errorf("%s: ended after %s %.0f s", l.Stage.Name, what, l.Limit.Seconds()), err)
	}
	if cut && before.Failed == 0 {
		return before, true, err
	}
	return fold.fold.Results(), cut, err
}

// argv is the command line of a stage. go test gets a limit of its own, before the stage's, since
// it says then what every goroutine waits for.
func (r *runner) argv(l stages.Launch, tests string) []string {
	s := l.Stage
	var argv []string
	if s.Background {
		argv = []string{"nice", "-n", "2"}
	}
	if len(s.Tests) == 0 {
		return append(argv, s.Command...)
	}
	own := max(l.Limit-30*time.Second, l.Limit/2)
	argv = append(argv, "go", "test", "-json", "-count=1", "-timeout", own.Round(time.Second).String())
	argv = append(argv, s.Flags...)
	if tests != "" {
		argv = append(argv, "-run", tests)
	}
	return append(argv, stages.Packages(r.all, s, r.module, r.packages)...)
}

// folder folds lines of both outputs and writes their text to the log.
type folder struct {
	mu   sync.Mutex
	log  io.Writer
	fold stages.Fold
}

func (f *folder) line(text string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	// A log that cannot be written loses nothing that is counted.
	_, _ = io.WriteString(f.log, f.fold.Line(text))
}

// soFar is what the lines up to now came to.
func (f *folder) soFar() stages.Results {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.fold.SoFar()
}

// lines calls to with each whole line that is written.
type lines struct {
	to   func(string)
	rest []byte
}

func (l *lines) Write(data []byte) (int, error) {
	n := len(data)
	for {
		advance, line, _ := bufio.ScanLines(data, false)
		if advance == 0 {
			l.rest = append(l.rest, data...)
			return n, nil
		}
		l.to(string(l.rest) + string(line))
		l.rest, data = l.rest[:0], data[advance:]
	}
}

func (l *lines) flush() {
	if len(l.rest) > 0 {
		l.to(string(l.rest))
		l.rest = nil
	}
}

// tail is the end of a log: what a stage without tests said before it failed.
func tail(path string) string {
	data, err := os.ReadFile(path)
	if err != nil {
		return err.Error()
	}
	return string(data[max(0, len(data)-6000):])
}
