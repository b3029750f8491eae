// SPDX-License-Identifier: Apache-2.0

package stages

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/tests/testenv"
)

// row is a stage's line in docs/testing.md.
func row(s Stage) string {
	name, needs := s.Name, strings.Join(s.Needs, ", ")
	if s.Optional {
		name += " *"
	}
	weight := fmt.Sprint(s.Weight)
	if s.Background {
		weight = "beside"
	}
	return fmt.Sprintf("| %s | %s | %s | %s | %d | %d |", name, s.About, needs, weight, int(s.Budget.Seconds()), int(s.Limit.Seconds()))
}

// TestStagesAreDocumented wants each stage in the document and in the workflow, as it is.
func TestStagesAreDocumented(t *testing.T) {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(testenv.Tree(t), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	document, workflow := read("docs/testing.md"), read(".github/workflows/ci.yml")
	_, jobs, found := strings.Cut(workflow, "stage: [")
	jobs, _, _ = strings.Cut(jobs, "]")
	if !found {
		t.Fatal("the workflow has no list of stages")
	}
	for _, s := range All() {
		if !strings.Contains(document, row(s)+"\n") {
			t.Errorf("docs/testing.md lacks the row:\n%s", row(s))
		}
		needed := strings.Contains(workflow, "make test-guest test-clients") &&
			(s.Name == "guest" || s.Name == "clients" || s.Name == "build")
		if !needed && !strings.Contains(", "+jobs+",", ", "+s.Name+",") {
			t.Errorf("the workflow has no job %s: %s", s.Name, jobs)
		}
	}
	for job := range strings.SplitSeq(jobs, ", ") {
		if _, err := Select(All(), job); err != nil {
			t.Errorf("the workflow: %v", err)
		}
	}
}
