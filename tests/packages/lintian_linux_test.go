// SPDX-License-Identifier: Apache-2.0

package packages

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/tests/testenv"
)

// complaint is a line of lintian: severity, package, tag.
var complaint = regexp.MustCompile(`(?m)^[EW]: ([a-z-]+): ([a-z-]+)`)

// TestLintian has lintian look at the packages. Its tags are those that docs/packages.md lists with
// a reason: not one more, and not one less.
func TestLintian(t *testing.T) {
	testenv.NeedTool(t, "lintian")
	testenv.NeedShim(t)
	testenv.NeedGuest(t)
	tree := pack(t)
	files, err := filepath.Glob(filepath.Join(tree, "build", "packages", "*.deb"))
	if err != nil || len(files) != 3 {
		t.Fatalf("packages: %q, want three: %v", files, err)
	}
	// Its status tells of tags too.
	out, _ := exec.CommandContext(t.Context(), "lintian", append([]string{"--tag-display-limit", "0"}, files...)...).Output()
	found := map[string][]string{}
	for _, line := range complaint.FindAllStringSubmatch(string(out), -1) {
		found[line[2]] = append(found[line[2]], line[0])
	}
	text, err := os.ReadFile(filepath.Join(tree, "docs", "packages.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Lintian\n")
	var listed []string
	for _, row := range regexp.MustCompile(`(?m)^\| ([a-z-]+(?:, [a-z-]+)*) \|`).FindAllStringSubmatch(section, -1) {
		listed = append(listed, strings.Split(row[1], ", ")...)
	}
	listed = slices.DeleteFunc(listed, func(s string) bool { return s == "tag" })
	slices.Sort(listed)
	var tags []string
	for tag := range found {
		tags = append(tags, tag)
	}
	slices.Sort(tags)
	if diff := cmp.Diff(listed, tags); diff != "" {
		t.Errorf("tags of lintian that docs/packages.md does not list (+), or that are gone (-):\n%s\n%s", diff, out)
	}
}
