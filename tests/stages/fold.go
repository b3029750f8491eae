// SPDX-License-Identifier: Apache-2.0

package stages

import (
	"encoding/json"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
)

// event is one line of go test -json (go doc test2json).
type event struct {
	Action, Package, Test, Output string
	FailedBuild                   string
}

// Told is a test and what it said: why it was skipped, or how it failed.
type Told struct {
	Package, Test, Text string
}

// Results is what a stage's output comes to. Subtests count as tests.
type Results struct {
	Passed, Failed, Skipped int
	Failures, Skips         []Told
	Closing                 []string // lines for the terminal: packages, a suite's counts
	NotRun                  []string // "name: reason" for each part that the stage itself left out
	Lost                    []string // machines that the emulation lost, and that were begun again
}

// Fold reads a stage's output line by line. The zero value is ready. It is not for use at once.
type Fold struct {
	results Results
	said    map[[2]string]*strings.Builder // of tests that have not ended, by package and name
	started map[[2]string]bool
	failed  map[string]int // failed tests by package
}

var (
	closing = regexp.MustCompile(`^(ok\s|FAIL\s|panic:|fuzz |[a-z0-9]+: [0-9]+ passed|attacks(\[[a-z/]+\])?: )`)
	// Bounds of what a failed test is quoted with: much of it comes long before the verdict.
	quoteHead, quoteTail = 2000, 6000
)

// Line takes one line without its end, and returns its text for the log: nothing for an event
// without output.
func (f *Fold) Line(line string) string {
	var e event
	if !strings.HasPrefix(line, "{") || json.Unmarshal([]byte(line), &e) != nil || e.Action == "" {
		f.plain(line)
		return line + "\n"
	}
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "run":
		f.begin(key)
	case "output", "build-output":
		f.output(key, e.Output)
		return e.Output
	case "pass":
		f.end(key, func() { f.results.Passed++ })
	case "skip":
		f.end(key, func() {
			f.results.Skipped++
			f.results.Skips = append(f.results.Skips, Told{e.Package, e.Test, reason(f.text(key))})
		})
	case "fail":
		if e.Test == "" {
			f.failPackage(e)
			break
		}
		f.end(key, func() { f.fail(key) })
	}
	return ""
}

// plain looks at a line that is no test's.
func (f *Fold) plain(line string) {
	text := strings.TrimRight(line, "\n")
	if what, ok := strings.CutPrefix(text, "not run: "); ok {
		f.results.NotRun = append(f.results.NotRun, what)
		return
	}
	if i := strings.Index(text, "machine "); i >= 0 && strings.Contains(text[i:], " was lost, ") {
		f.results.Lost = append(f.results.Lost, text[i:])
	}
	if closing.MatchString(text) {
		f.results.Closing = append(f.results.Closing, text)
	}
}

func (f *Fold) begin(key [2]string) {
	if f.started == nil {
		f.started, f.said, f.failed = map[[2]string]bool{}, map[[2]string]*strings.Builder{}, map[string]int{}
	}
	f.started[key] = true
}

func (f *Fold) output(key [2]string, text string) {
	f.plain(text)
	if f.said == nil {
		f.begin(key)
		delete(f.started, key)
	}
	if f.said[key] == nil {
		f.said[key] = &strings.Builder{}
	}
	if len(text) > 1000 {
		text = text[:1000] + "\n"
	}
	f.said[key].WriteString(text)
}

// end counts a test that has ended; a package's own end counts nothing.
func (f *Fold) end(key [2]string, count func()) {
	if key[1] != "" {
		count()
	}
	delete(f.started, key)
	delete(f.said, key)
}

func (f *Fold) fail(key [2]string) {
	f.results.Failed++
	f.results.Failures = append(f.results.Failures, Told{key[0], key[1], quote(f.text(key))})
	if f.failed == nil {
		f.failed = map[string]int{}
	}
	f.failed[key[0]]++
}

// failPackage counts tests that were cut off, and one failure for a package of which no test has
// failed: it did not build, or ended outside of its tests.
func (f *Fold) failPackage(e event) {
	f.cutOff(func(key [2]string) bool { return key[0] == e.Package })
	if f.failed[e.Package] == 0 {
		text := f.text([2]string{e.Package, ""})
		if e.FailedBuild != "" {
			text = "did not build: " + e.FailedBuild + "\n" + text
		}
		f.results.Failed++
		f.results.Failures = append(f.results.Failures, Told{Package: e.Package, Text: quote(text)})
	}
	delete(f.said, [2]string{e.Package, ""})
}

// cutOff counts the tests that have begun and not ended as failed, the innermost first.
func (f *Fold) cutOff(which func([2]string) bool) {
	for _, key := range slices.SortedFunc(maps.Keys(f.started), func(a, b [2]string) int { return strings.Compare(b[0]+b[1], a[0]+a[1]) }) {
		if key[1] != "" && which(key) {
			delete(f.started, key)
			f.fail(key)
		}
	}
}

func (f *Fold) text(key [2]string) string {
	if f.said[key] == nil {
		return ""
	}
	return f.said[key].String()
}

// SoFar is what the lines up to now came to. Tests that are still running do not count.
func (f *Fold) SoFar() Results { return f.results }

// Results ends the reading. Tests that were still running failed.
func (f *Fold) Results() Results {
	f.cutOff(func([2]string) bool { return true })
	return f.results
}

// reason is the last line that a skipped test said of itself.
func reason(said string) string {
	var last string
	for line := range strings.SplitSeq(said, "\n") {
		line = strings.TrimSpace(line)
		if line != "" && !strings.HasPrefix(line, "===") && !strings.HasPrefix(line, "--- SKIP") {
			last = line
		}
	}
	return last
}

// quote cuts the middle out of a long text.
func quote(text string) string {
	if len(text) <= quoteHead+quoteTail {
		return text
	}
	return fmt.Sprintf("%s\n... %d bytes ...\n%s", text[:quoteHead], len(text)-quoteHead-quoteTail, text[len(text)-quoteTail:])
}
