// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

// TestPromiseIsTested: each test that docs/architecture.md names is there, and each line of the
// promise names one.
func TestPromiseIsTested(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(testenv.Tree(t), "docs", "architecture.md"))
	if err != nil {
		t.Fatal(err)
	}
	all := testSources(t)
	_, table, ok := strings.Cut(string(text), "| threat |")
	if !ok {
		t.Fatal("docs/architecture.md has no table of threats")
	}
	table, _, _ = strings.Cut(table, "\n\n")
	name := regexp.MustCompile(`\bTest[A-Za-z0-9]+`)
	for line := range strings.Lines(table) {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|---") {
			continue
		}
		tests := name.FindAllString(line, -1)
		if len(tests) == 0 {
			t.Errorf("no test is named: %s", line)
		}
		for _, test := range tests {
			if !bytes.Contains(all, []byte("\nfunc "+test+"(")) {
				t.Errorf("%s is nowhere: %s", test, line)
			}
		}
	}
}

// TestREADMEIsAProductPage: a newcomer reads it in one sitting and sees a picture.
func TestREADMEIsAProductPage(t *testing.T) {
	const most = 129 // under 130
	text, err := os.ReadFile(filepath.Join(testenv.Tree(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	if lines := bytes.Count(text, []byte("\n")); lines > most {
		t.Errorf("README.md has %d lines, at most %d: move details to a page in docs", lines, most)
	}
	if !bytes.Contains(text, []byte("](docs/cloister.svg)")) {
		t.Error("README.md has no picture")
	}
	for _, part := range []string{"Why", "Try it", "Use it", "Hosts", "Look at it", "Limits", "More"} {
		if !bytes.Contains(text, []byte("\n## "+part+"\n")) {
			t.Errorf("README.md has no part %q", part)
		}
	}
}

func testSources(t *testing.T) []byte {
	t.Helper()
	var all bytes.Buffer
	for _, f := range files(t) {
		if f.isTest() {
			all.Write(f.source)
		}
	}
	return all.Bytes()
}

// TestCasesAreTested: each test that docs/cases.md names is there, and each case names a test, a
// page or a command.
func TestCasesAreTested(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(testenv.Tree(t), "docs", "cases.md"))
	if err != nil {
		t.Fatal(err)
	}
	all, cases := testSources(t), 0
	name, other := regexp.MustCompile(`\bTest[A-Za-z0-9]+`), regexp.MustCompile("\\]\\(|`make ")
	for line := range strings.Lines(string(text)) {
		_, held, ok := strings.Cut(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |\n"), " | ")
		if !ok || held == "test" {
			continue
		}
		cases++
		tests := name.FindAllString(held, -1)
		if len(tests) == 0 && !other.MatchString(held) {
			t.Errorf("nothing holds this case: %s", line)
		}
		for _, test := range tests {
			if !bytes.Contains(all, []byte("\nfunc "+test+"(")) {
				t.Errorf("%s is nowhere: %s", test, line)
			}
		}
	}
	if cases < 40 {
		t.Errorf("docs/cases.md has %d cases, want at least 40", cases)
	}
}

// TestDecisionsAreListed: the list of decisions has each page, and names the next number.
func TestDecisionsAreListed(t *testing.T) {
	folder := filepath.Join(testenv.Tree(t), "docs", "decisions")
	list, err := os.ReadFile(filepath.Join(folder, "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	pages, err := filepath.Glob(filepath.Join(folder, "[0-9]*.md")) // sorted by name
	if err != nil || len(pages) == 0 {
		t.Fatalf("no decisions: %v", err)
	}
	for _, page := range pages {
		if !bytes.Contains(list, []byte("("+filepath.Base(page)+")")) {
			t.Errorf("docs/decisions/README.md does not list %s", filepath.Base(page))
		}
	}
	last, err := strconv.Atoi(filepath.Base(pages[len(pages)-1])[:4])
	if err != nil {
		t.Fatal(err)
	}
	if next := fmt.Sprintf("The next number is %04d.", last+1); !bytes.Contains(list, []byte(next)) {
		t.Errorf("docs/decisions/README.md does not say %q", next)
	}
}

// TestNamedTestsAreThere: each test and each scenario of the lab that a page names is there. What
// ends in a star names several.
func TestNamedTestsAreThere(t *testing.T) {
	tree, all := testenv.Tree(t), testSources(t)
	var pages []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md", "*/README.md", "labels/*/README.md", "tests/*/README.md"} {
		found, err := filepath.Glob(filepath.Join(tree, pattern))
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	name, named := regexp.MustCompile(`\bTest[A-Z]\w*\*?`), 0
	scenario := regexp.MustCompile(`\bTestLab/([a-z]+)`)
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		want := map[string]string{} // name -> the source that it has
		for _, test := range name.FindAllString(string(text), -1) {
			prefix, several := strings.CutSuffix(test, "*")
			if want[test] = "\nfunc " + prefix; !several {
				want[test] += "("
			}
		}
		for _, found := range scenario.FindAllStringSubmatch(string(text), -1) {
			want[found[0]] = `{"` + found[1] + `", `
		}
		for test, source := range want {
			if !bytes.Contains(all, []byte(source)) {
				t.Errorf("%s names %s, which is nowhere", page, test)
			}
		}
		named += len(want)
	}
	if named < 100 {
		t.Errorf("%d tests are named in %d pages, want at least 100", named, len(pages))
	}
}
