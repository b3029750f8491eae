// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"slices"
	"strings"
	"testing"
)

func TestOn(t *testing.T) {
	all := strings.Fields(Config{}.On(7))
	if len(all) != len(Parts()) || !slices.Contains(all, "landlock:7") {
		t.Errorf("On(7) = %q, want all of %v and the ABI", all, Parts())
	}
	for name, on := range map[string]string{
		"no Landlock in the kernel": Config{}.On(0),
		"switched off":              Config{Disable: []Part{Landlock}}.On(7),
	} {
		if parts := strings.Fields(on); len(parts) != len(Parts())-1 || strings.Contains(on, string(Landlock)) {
			t.Errorf("%s: On() = %q, want all but %s", name, on, Landlock)
		}
	}
}
