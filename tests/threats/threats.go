// SPDX-License-Identifier: Apache-2.0

// Package threats compares what sandbox/prove reports with docs/threats.md.
package threats

import (
	"cmp"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"cloister/sandbox/prove"
)

// Sections of docs/threats.md, with a table each.
const (
	single = "## Behind one layer"
	open   = "## Not stopped"
)

// Check fails for every attack that shows nothing, and for every one that has succeeded, or that a
// single layer stops, and that docs/threats.md does not list. It gives how many have succeeded.
func Check(t *testing.T, r prove.Report) (succeeded int) {
	t.Helper()
	if len(r.Outcomes) == 0 {
		t.Error("no attack was made")
	}
	for _, o := range r.Succeeded() {
		wantRow(t, open, r.MAC, o.By, o.Attack, cmp.Or(o.On, "-"))
	}
	for _, o := range r.Void() {
		t.Errorf("%s by %s on %s shows nothing: root without a layer: %s", o.Attack, o.By, o.On, o.Without)
	}
	for _, o := range r.Absent {
		t.Logf("not on this host: %s by %s on %s", o.Attack, o.By, o.On)
		if !slices.Contains([]string{"", "sysrq-trigger", "/dev/kmsg"}, o.On) {
			t.Errorf("%s by %s on %s: root without a layer: %s", o.Attack, o.By, o.On, o.Without)
		}
	}
	for _, o := range r.Single() {
		wantRow(t, single, r.MAC, o.By, o.Attack, cmp.Or(o.On, "-"), layer(o))
	}
	return len(r.Succeeded())
}

// NoStaleRow fails for every row about attacks of this report, on this host, of which none is
// behind that layer alone any more. It is for hosts whose kernel stays the same from run to run: a
// newer one may stop more.
func NoStaleRow(t *testing.T, r prove.Report) {
	t.Helper()
	matches := func(row []string) func(prove.Outcome) bool {
		return func(o prove.Outcome) bool {
			return fits(row, o.By, o.Attack, cmp.Or(o.On, "-"))
		}
	}
	for _, row := range table(t, single) {
		if len(row) < 5 || !slices.Contains(strings.Fields(row[4]), r.MAC) || !slices.ContainsFunc(r.Outcomes, matches(row)) {
			continue
		}
		if !slices.ContainsFunc(r.Single(), func(o prove.Outcome) bool { return matches(row)(o) && row[3] == layer(o) }) {
			t.Errorf("docs/threats.md, %q: | %s | is out of date on %s", single, strings.Join(row, " | "), r.MAC)
		}
	}
}

// layer names what alone stops an attack.
func layer(o prove.Outcome) string {
	if len(o.Layers) == 0 {
		return "several together"
	}
	return string(o.Layers[0])
}

// fits tells whether a row begins with these cells. A cell "all" stands for any.
func fits(row []string, cells ...string) bool {
	return len(row) > len(cells) &&
		slices.EqualFunc(row[:len(cells)], cells, func(have, want string) bool { return have == want || have == "all" })
}

// wantRow fails if the section has no row with these cells, and the host in the cell after them.
func wantRow(t *testing.T, heading, mac string, cells ...string) {
	t.Helper()
	n := len(cells)
	if !slices.ContainsFunc(table(t, heading), func(have []string) bool {
		return fits(have, cells...) && slices.Contains(strings.Fields(have[n]), mac)
	}) {
		t.Errorf("docs/threats.md, %q: no row | %s | %s |", heading, strings.Join(cells, " | "), mac)
	}
}

// table are the rows of a section's table, by cell.
func table(t *testing.T, heading string) [][]string {
	t.Helper()
	_, file, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(file), "..", "..", "docs", "threats.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(text), heading+"\n")
	if !found {
		t.Fatalf("docs/threats.md has no section %q", heading)
	}
	section, _, _ = strings.Cut(section, "\n## ")
	var rows [][]string
	for line := range strings.Lines(section) {
		if !strings.HasPrefix(line, "| ") {
			continue
		}
		var cells []string
		for cell := range strings.SplitSeq(strings.Trim(strings.TrimSpace(line), "|"), "|") {
			cells = append(cells, strings.TrimSpace(cell))
		}
		rows = append(rows, cells)
	}
	return rows
}
