// SPDX-License-Identifier: Apache-2.0

package stages

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// read folds what go test -json says of a package with that source.
func read(t *testing.T, source string, flags ...string) (Results, string) {
	t.Helper()
	dir := t.TempDir()
	for name, text := range map[string]string{"go.mod": "module m\n\ngo 1.24\n", "m_test.go": "package m\n\n" + source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), "go", append([]string{"test", "-json", "-count=1"}, flags...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GOFLAGS=", "GOTOOLCHAIN=local")
	out, err := cmd.CombinedOutput()
	t.Logf("go test: %v", err)
	var fold Fold
	var log strings.Builder
	for line := range strings.Lines(string(out)) {
		log.WriteString(fold.Line(strings.TrimSuffix(line, "\n")))
	}
	return fold.Results(), log.String()
}

func counts(r Results) [3]int { return [3]int{r.Passed, r.Failed, r.Skipped} }

func TestFold(t *testing.T) {
	const imports = "import (\n\"testing\"\n\"fmt\"\n)\nvar _ = fmt.Sprint\n"
	tests := []struct {
		name, source string
		flags        []string
		want         [3]int
		failures     []string
		said         string // in the first failure
	}{
		{
			name: "subtests count", want: [3]int{3, 0, 1},
			source: imports +
				`func TestA(t *testing.T) { t.Run("x", func(*testing.T) {}); t.Run("y", func(*testing.T) {}); t.Run("z", func(t ` +
				`*testing.T) { t.Skip("needs kvm: none") }) }`,
		},
		{
			name: "a failed test says what it said", want: [3]int{1, 1, 0}, failures: []string{"TestA"}, said: "one and two",
			source: imports + `func TestA(t *testing.T) { t.Error("one and two") }
func TestB(t *testing.T) { t.Log("nothing") }`,
		},
		{
			name: "a line that looks like a verdict", want: [3]int{1, 0, 0},
			source: imports + `func TestA(t *testing.T) { fmt.Println("--- FAIL: TestB (0.00s)\n--- PASS: TestC (0.00s)") }`,
		},
		{
			name: "a panic", want: [3]int{1, 1, 0}, failures: []string{"TestB"}, said: "broken",
			source: imports + `func TestA(t *testing.T) {}
func TestB(t *testing.T) { panic("broken") }`,
		},
		{
			name: "an exit in the middle", want: [3]int{1, 1, 0}, failures: []string{"TestB"},
			source: "import (\n\"os\"\n\"testing\"\n)\n" + `func TestA(t *testing.T) {}
func TestB(t *testing.T) { os.Exit(3) }`,
		},
		{
			name: "a timeout", want: [3]int{1, 1, 0}, failures: []string{"TestB"}, said: "timed out",
			flags: []string{"-timeout", "1s"},
			source: imports + `func TestA(t *testing.T) {}
func TestB(t *testing.T) { select {} }`,
		},
		{
			name: "what does not compile", want: [3]int{0, 1, 0}, failures: []string{""}, said: "did not build",
			source: imports + `func TestA(t *testing.T) { nothing() }`,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r, log := read(t, tt.source, tt.flags...)
			if counts(r) != tt.want {
				t.Errorf("passed, failed, skipped: %v, want %v; the log:\n%s", counts(r), tt.want, log)
			}
			var failures []string
			for _, f := range r.Failures {
				failures = append(failures, f.Test)
			}
			if diff := cmp.Diff(tt.failures, failures); diff != "" {
				t.Errorf("failures (-want +got):\n%s", diff)
			}
			if len(r.Failures) > 0 && !strings.Contains(r.Failures[0].Text, tt.said) {
				t.Errorf("the failure says %q, want %q", r.Failures[0].Text, tt.said)
			}
			if r.Skipped > 0 && (len(r.Skips) != 1 || !strings.HasSuffix(r.Skips[0].Text, "needs kvm: none")) {
				t.Errorf("skips: %v", r.Skips)
			}
		})
	}
}

func TestFoldPlain(t *testing.T) {
	var fold Fold
	for _, line := range []string{
		"not run: oci:FuzzSpec: no time was left", "pods: 92 passed, 0 failed, 0 skipped",
		"attacks: 3 tried, 2 denied, 1 succeeded; controls: 3 of 3",
		"    lab_test.go:112: machine 1 was lost, pods is begun again on another one: no answer", "something else",
	} {
		fold.Line(line)
	}
	want := Results{
		Closing: []string{"pods: 92 passed, 0 failed, 0 skipped", "attacks: 3 tried, 2 denied, 1 succeeded; controls: 3 of 3"},
		NotRun:  []string{"oci:FuzzSpec: no time was left"},
		Lost:    []string{"machine 1 was lost, pods is begun again on another one: no answer"},
	}
	if diff := cmp.Diff(want, fold.Results()); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

func TestQuoteKeepsBothEnds(t *testing.T) {
	got := quote("begin" + strings.Repeat("x", 100000) + "end")
	if len(got) > quoteHead+quoteTail+100 || !strings.HasPrefix(got, "begin") || !strings.HasSuffix(got, "end") {
		t.Errorf("%d bytes, from %q to %q", len(got), got[:10], got[len(got)-10:])
	}
}

// TestDeadline has what Go 1.26 prints when a fuzz test's time ends while an input runs.
func TestDeadline(t *testing.T) {
	output := func(test, text string) string {
		return `{"Action":"output","Package":"cloister/oci","Test":"` + test + `","Output":"` + text + `\n"}`
	}
	const run, fail, whole = `{"Action":"run","Package":"cloister/oci","Test":"FuzzSpec"}`,
		`{"Action":"fail","Package":"cloister/oci","Test":"FuzzSpec","Elapsed":3.1}`,
		`{"Action":"fail","Package":"cloister/oci","Elapsed":3.1}`
	lines := func(said ...string) []string {
		all := []string{
			run, output("FuzzSpec", "=== RUN   FuzzSpec"),
			output("FuzzSpec", "fuzz: elapsed: 3s, execs: 12 (4/sec), new interesting: 0 (total: 9)"),
			output("FuzzSpec", "--- FAIL: FuzzSpec (3.10s)"),
		}
		for _, text := range said {
			all = append(all, output("FuzzSpec", "    "+text))
		}
		return append(all, output("", "FAIL"), fail, output("", "exit status 1"), whole)
	}
	tests := []struct {
		name  string
		lines []string
		want  bool
	}{
		{"its own time", lines("context deadline exceeded"), true},
		{"an input", lines("Failing input written to testdata/fuzz/FuzzSpec/1", "context deadline exceeded"), false},
		{"an error of the same words and more", lines("x_test.go:12: context deadline exceeded"), false},
		{"another", lines("panic: runtime error"), false},
		{"nothing", lines(), false},
		{"no events", []string{"context deadline exceeded"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := Deadline(tt.lines)
			if ok != tt.want {
				t.Fatalf("Deadline says %t, want %t", ok, tt.want)
			}
			var fold Fold
			for _, line := range got {
				fold.Line(line)
			}
			want := [3]int{0, 1, 0}
			if tt.want {
				want = [3]int{1, 0, 0}
			}
			if r := fold.Results(); counts(r) != want && tt.name != "no events" {
				t.Errorf("counts %v, want %v", counts(r), want)
			}
			if !tt.want && !slices.Equal(got, tt.lines) {
				t.Errorf("the lines are others: %q", got)
			}
		})
	}
}
