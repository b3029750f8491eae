// SPDX-License-Identifier: Apache-2.0

package suites

import (
	"fmt"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"testing"
)

// Column is a runtime's name at the head of a list.
type Column string

// The columns.
const (
	Runc     Column = "runc"
	Cloister Column = "cloister"
)

// Expected is a line of a list: results are pass, fail, skip, any where the result is not the same
// each time, and out for what is not run.
type Expected struct {
	Runc, Cloister, Reason string
}

// Result is what is expected of one runtime.
func (e Expected) Result(which Column) string {
	if which == Runc {
		return e.Runc
	}
	return e.Cloister
}

// List is what is expected of a suite, by case.
type List map[string]Expected

// Of gives the part of a list whose names begin with one of the folders.
func (l List) Of(folders []string) List {
	part := List{}
	for name, e := range l {
		if folder, _, _ := strings.Cut(name, "/"); slices.Contains(folders, folder) {
			part[name] = e
		}
	}
	return part
}

// Names gives the list with the names of the cases alone, without a folder.
func (l List) Names() List {
	part := List{}
	for name, e := range l {
		part[path.Base(name)] = e
	}
	return part
}

// Load reads a list; lines that begin with # are comments.
func Load(t testing.TB, file string) List {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	found := List{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "\t")
		if len(fields) != 4 {
			t.Fatalf("%s: %q has %d fields, want 4", file, line, len(fields))
		}
		found[fields[0]] = Expected{fields[1], fields[2], fields[3]}
	}
	return found
}

// Save writes what one runtime gave into a list; reasons and the other's results stay.
func Save(t testing.TB, file string, which Column, got map[string]string) {
	t.Helper()
	all := Load(t, file)
	for name, result := range got {
		e := all[name]
		switch {
		case e.Result(which) == "any":
		case which == Runc:
			e.Runc = result
		default:
			e.Cloister = result
		}
		all[name] = e
	}
	var b strings.Builder
	b.WriteString("# What the suite gives here: case, runc, cloister, the reason where they differ or fail. Results: pass, fail, skip;\n" +
		"# any: not the same each time; out: not run with this runtime.\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e := all[name]
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\n", name, e.Runc, e.Cloister, e.Reason)
	}
	if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// Check looks at a list alone: every difference has its reason.
func Check(t testing.TB, file string) {
	t.Helper()
	for name, e := range Load(t, file) {
		for _, result := range []string{e.Runc, e.Cloister} {
			if !slices.Contains([]string{"pass", "fail", "skip", "any", "out"}, result) {
				t.Errorf("%s: %q is no result", name, result)
			}
		}
		if e.Reason == "" && (e.Runc != e.Cloister || e.Runc == "fail" || e.Runc == "any") {
			t.Errorf("%s: %s with runc, %s with cloister, and no reason", name, e.Runc, e.Cloister)
		}
	}
}

// Differ says what class process gives where that is not runc's result, and why.
func (l List) Differ(name, result, reason string) {
	e := l[name]
	e.Runc, e.Reason = result, reason
	l[name] = e
}

// Compare fails for each case that did not give what is expected of it.
func (l List) Compare(t testing.TB, which Column, got map[string]string) {
	t.Helper()
	for _, name := range slices.Sorted(maps.Keys(got)) {
		c, known := l[name]
		switch expected := c.Result(which); {
		case !known:
			t.Errorf("%s: %s, and is not in the list", name, got[name])
		case expected == "any":
		case expected == got[name]:
		default:
			t.Errorf("%s: %s, expected %s (%s)", name, got[name], expected, c.Reason)
		}
	}
	for name, c := range l {
		if got[name] == "" && c.Result(which) != "out" {
			t.Errorf("%s is in the list and did not run", name)
		}
	}
}

// Out gives the suite's own pattern of the cases that are not run with a runtime, and of those that
// more matches.
func (l List) Out(which Column, more string) string {
	var patterns []string
	if more != "" {
		patterns = append(patterns, more)
	}
	for _, name := range slices.Sorted(maps.Keys(l)) {
		if l[name].Result(which) == "out" {
			patterns = append(patterns, "^"+name+"$")
		}
	}
	return strings.Join(patterns, "|")
}

// Count gives how many cases of the list passed, failed and were skipped with a runtime.
func (l List) Count(which Column) (passed, failed, skipped int) {
	for _, e := range l {
		switch e.Result(which) {
		case "pass":
			passed++
		case "fail":
			failed++
		case "skip":
			skipped++
		}
	}
	return passed, failed, skipped
}
