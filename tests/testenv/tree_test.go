// SPDX-License-Identifier: Apache-2.0

package testenv

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestColdTestsExist: the list of tests that start cold names tests. A test that was renamed would
// leave it, and no stage would show cold starts any more.
func TestColdTestsExist(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(Tree(t), "tests", "*", "*_test.go"))
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(text)
	}
	for _, name := range cold {
		if !strings.Contains(all.String(), "func "+name+"(t *testing.T)") {
			t.Errorf("there is no %s", name)
		}
	}
}
