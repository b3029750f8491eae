// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"cloister/tests/stages"
	"cloister/tests/testenv"
)

// most is how long a fuzz test runs when there is time enough.
const most = 10 * time.Second

// fuzzer hands the tests that wait to its jobs.
type fuzzer struct {
	jobs  int
	fixed time.Duration // of each test; 0: what fits
	end   time.Time

	mu       sync.Mutex
	waiting  []string
	last     map[string]int64
	overhead time.Duration // of the last tests: the build and the corpus
	failed   bool
	ran      int
	cut      []string // ended by their own time, for which Go blames the test
	longest  time.Duration
	notRun   []string
}

func run(ctx context.Context) (bool, error) {
	f := &fuzzer{jobs: 2, end: time.Now().Add(7 * time.Minute), overhead: 5 * time.Second}
	if err := f.settings(); err != nil {
		return false, err
	}
	targets, err := find(os.Getenv("FUZZ"))
	if err != nil {
		return false, err
	}
	state := filepath.Join(testenv.Cache(), "ci", "fuzz.json")
	if f.last, err = read(state); err != nil {
		fmt.Fprintln(os.Stderr, "fuzz: when each test last ran is not known:", err)
		f.last = map[string]int64{}
	}
	f.waiting = stages.FuzzOrder(targets, f.last)
	var jobs sync.WaitGroup
	for range f.jobs {
		jobs.Go(func() { f.work(ctx) })
	}
	jobs.Wait()
	for _, target := range f.notRun {
		fmt.Println("not run: " + target + ": no time was left; the next run begins with it")
	}
	for _, target := range f.cut {
		fmt.Println("fuzz " + target +
			": its time ended while an input ran, which Go takes for a failure (go.dev/issue/75804); no input failed")
	}
	fmt.Printf("fuzz %d of %d tests, %d s each at most, %d ended by go.dev/issue/75804\n", f.ran, len(targets),
		int(f.longest.Seconds()), len(f.cut))
	return !f.failed && ctx.Err() == nil, write(state, f.last)
}

func (f *fuzzer) settings() error {
	if text := os.Getenv("CLOISTER_STAGE_SECONDS"); text != "" && text != "0" {
		s, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("CLOISTER_STAGE_SECONDS: %w", err)
		}
		f.end = time.Now().Add(time.Duration(s) * time.Second)
	}
	if text := os.Getenv("FUZZTIME"); text != "" {
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("FUZZTIME: %w", err)
		}
		f.fixed = d
	}
	if text := os.Getenv("FUZZJOBS"); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 {
			return fmt.Errorf("FUZZJOBS is %q, want a number from 1", text)
		}
		f.jobs = n
	}
	return nil
}

// find lists the fuzz tests of the tree as FOLDER:NAME.
func find(pattern string) ([]string, error) {
	wanted, err := regexp.Compile(pattern)
	if err != nil {
		return nil, fmt.Errorf("FUZZ: %w", err)
	}
	function := regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)
	var targets []string
	err = filepath.WalkDir(".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case entry.IsDir() && (path == "build" || path != "." && strings.HasPrefix(entry.Name(), ".")):
			return filepath.SkipDir
		case entry.IsDir() || !strings.HasSuffix(path, "_test.go"):
			return nil
		}
		source, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, match := range function.FindAllSubmatch(source, -1) {
			if target := filepath.Dir(path) + ":" + string(match[1]); wanted.MatchString(target) {
				targets = append(targets, target)
			}
		}
		return nil
	})
	if err == nil && len(targets) == 0 {
		err = fmt.Errorf("no fuzz test matches %q", pattern)
	}
	return targets, err
}

// work runs tests until none waits.
func (f *fuzzer) work(ctx context.Context) {
	for ctx.Err() == nil {
		target, length := f.next()
		if target == "" {
			return
		}
		if length > 0 {
			f.fuzz(ctx, target, length)
		}
	}
}

// next takes a test and its time: 0 when there is none left for it.
func (f *fuzzer) next() (string, time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.waiting) == 0 {
		return "", 0
	}
	length := f.fixed
	if length == 0 {
		length = stages.FuzzTime(time.Until(f.end), len(f.waiting), f.jobs, f.overhead, most)
	}
	target := f.waiting[0]
	f.waiting = f.waiting[1:]
	if length == 0 {
		f.notRun = append(f.notRun, target)
	}
	f.longest = max(f.longest, length)
	return target, length
}

// fuzz runs one test with one worker, and prints what go test said.
func (f *fuzzer) fuzz(ctx context.Context, target string, length time.Duration) {
	folder, name, _ := strings.Cut(target, ":")
	begin := time.Now()
	cmd := exec.CommandContext(ctx, "go", "test", "-json", "-run", "^$", "-fuzz", "^"+name+"$", "-fuzztime",
		length.String(), "-parallel", "1", "./"+folder)
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	took := time.Since(begin)
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	cut := false
	if err != nil {
		lines, cut = stages.Deadline(lines)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, line := range lines {
		// One line for each package that passed says nothing here.
		if !strings.Contains(line, `"Output":"ok `) {
			fmt.Println(line)
		}
	}
	f.ran++
	f.last[target] = time.Now().Unix()
	f.overhead = (f.overhead + took - length) / 2
	if cut {
		f.cut = append(f.cut, target)
	} else if err != nil {
		f.failed = true
		fmt.Printf("fuzz %s failed after %d s\n", target, int(took.Seconds()))
	}
}

func read(path string) (map[string]int64, error) {
	last := map[string]int64{}
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return last, nil
	}
	if err != nil {
		return nil, err
	}
	return last, json.Unmarshal(data, &last)
}

// write replaces the file. Two runs at once lose at most when the other's tests ran.
func write(path string, last map[string]int64) error {
	data, err := json.MarshalIndent(last, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	scratch, err := os.CreateTemp(filepath.Dir(path), ".fuzz-")
	if err != nil {
		return err
	}
	defer os.Remove(scratch.Name())
	if _, err := scratch.Write(append(data, '\n')); err != nil {
		return errors.Join(err, scratch.Close())
	}
	return errors.Join(scratch.Close(), os.Rename(scratch.Name(), path))
}
