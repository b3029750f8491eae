// SPDX-License-Identifier: Apache-2.0

package arch

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
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
	var all bytes.Buffer
	for _, f := range files(t) {
		if f.isTest() {
			all.Write(f.source)
		}
	}
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
			if !bytes.Contains(all.Bytes(), []byte("\nfunc "+test+"(")) {
				t.Errorf("%s is nowhere: %s", test, line)
			}
		}
	}
}
