// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"errors"
	"strings"
	"testing"
)

func TestCheckConfig(t *testing.T) {
	const final = "CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C=m\nCONFIG_N=64\n"
	for _, tt := range []struct{ name, fragment, want string }{
		{"all true", "# A group.\nCONFIG_A=y\n\n# CONFIG_B is not set\n# CONFIG_ABSENT is not set\nCONFIG_N=64\n", ""},
		{"absent", "CONFIG_X=y\n", "line 1: want CONFIG_X=y, have CONFIG_X unset"},
		{"other value", "\nCONFIG_C=y\n", "line 2: want CONFIG_C=y, have CONFIG_C=m"},
		{"longer value", "CONFIG_N=6\n", "have CONFIG_N=64"},
		{"stays on", "# CONFIG_A is not set\n", "want CONFIG_A off, have CONFIG_A=y"},
		{"no option", "CONFIG_A\n", "no option"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := checkConfig(tt.fragment, final)
			if tt.want == "" && err != nil || tt.want != "" && (!errors.Is(err, ErrConfig) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("checkConfig = %v, want %q", err, tt.want)
			}
		})
	}
}

// TestSmallConfigForm keeps the fragment readable: a comment over each group,
// and no option twice.
func TestSmallConfigForm(t *testing.T) {
	seen := map[string]bool{}
	comment, previous := false, ""
	for i, line := range strings.Split(smallConfig, "\n") {
		m := optionLine.FindStringSubmatch(line)
		if m == nil {
			comment = strings.HasPrefix(line, "# ")
		} else if previous == "" && !comment {
			t.Errorf("line %d: a group without a comment", i+1)
		}
		if m != nil {
			if name := m[1] + m[2]; seen[name] {
				t.Errorf("line %d: %s for the second time", i+1, name)
			} else {
				seen[name] = true
			}
		}
		previous = line
	}
	if len(seen) < 100 {
		t.Errorf("%d options, want more", len(seen))
	}
}
