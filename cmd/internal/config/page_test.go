// SPDX-License-Identifier: Apache-2.0

package config

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloister/sandbox"
	"cloister/tests/testenv"
)

// TestExamplesOfThePageAreValid decodes each example of docs/configuration.md.
func TestExamplesOfThePageAreValid(t *testing.T) {
	page, err := os.ReadFile(filepath.Join(testenv.Tree(t), "docs", "configuration.md"))
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(string(page), "```toml\n")
	if len(parts) < 2 {
		t.Fatal("docs/configuration.md has no example")
	}
	for _, part := range parts[1:] {
		example, _, _ := strings.Cut(part, "```")
		var c sandbox.Config
		if err := decode("example", []byte(example), &c); err != nil {
			t.Errorf("%s: %v", example, err)
		}
	}
}
