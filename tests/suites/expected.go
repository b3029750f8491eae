// SPDX-License-Identifier: Apache-2.0

package clients_test

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

const expectedFile = "expected.tsv"

// column is a runtime's name at the head of expected.tsv.
type column string

// expected is a line of expected.tsv: results are pass, fail, skip, any where the result is not the same each time, and out for what is not run.
type expected struct {
	runc, cloister, reason string
}

func (e expected) result(which column) string {
	if which == "runc" {
		return e.runc
	}
	return e.cloister
}

// load reads expected.tsv: case, runc, cloister, reason, apart by tabs; lines that begin with # are comments.
func load(t *testing.T) map[string]expected {
	t.Helper()
	text, err := os.ReadFile(expectedFile)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]expected{}
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\n")
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Split(line, "\t")
		if len(fields) != 4 {
			t.Fatalf("%s: %q has %d fields, want 4", expectedFile, line, len(fields))
		}
		found[fields[0]] = expected{fields[1], fields[2], fields[3]}
	}
	return found
}

// save writes the results of one runtime; reasons and the other's results stay.
func save(t *testing.T, which column, got map[string]string) {
	t.Helper()
	all := load(t)
	for name, result := range got {
		e := all[name]
		switch {
		case e.result(which) == "any":
		case which == "runc":
			e.runc = result
		default:
			e.cloister = result
		}
		all[name] = e
	}
	var b strings.Builder
	b.WriteString("# What containerd's client suite gives here: case, runc, cloister, the reason where they differ or fail. Results: pass, fail, skip;\n" +
		"# any: not the same each time; out: not run with this runtime.\n")
	for _, name := range slices.Sorted(maps.Keys(all)) {
		e := all[name]
		fmt.Fprintf(&b, "%s\t%s\t%s\t%s\n", name, e.runc, e.cloister, e.reason)
	}
	if err := os.WriteFile(expectedFile, []byte(b.String()), 0o644); err != nil {
		t.Fatal(err)
	}
}

// TestEveryDifferenceHasItsReason looks at the list alone.
func TestEveryDifferenceHasItsReason(t *testing.T) {
	for name, e := range load(t) {
		for _, result := range []string{e.runc, e.cloister} {
			if !slices.Contains([]string{"pass", "fail", "skip", "any", "out"}, result) {
				t.Errorf("%s: %q is no result", name, result)
			}
		}
		if e.reason == "" && (e.runc != e.cloister || e.runc == "fail" || e.runc == "any") {
			t.Errorf("%s: %s with runc, %s with cloister, and no reason", name, e.runc, e.cloister)
		}
	}
}
