// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	_ "embed"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// ErrConfig is wrapped when the kernel's configuration is not what we asked. The build stops: a
// kernel that lacks an option would fail in a guest, far from its cause.
var ErrConfig = errors.New("kernel configuration")

//go:embed config/small.config
var smallConfig string

// optionLine is one wish: CONFIG_X=y, or "# CONFIG_X is not set".
var optionLine = regexp.MustCompile(`^(?:(CONFIG_[A-Za-z0-9_]+)=.+|# (CONFIG_[A-Za-z0-9_]+) is not set)$`)

// checkConfig tells whether every wish of the fragment came true in the kernel's final
// configuration. An option that is off may also be absent. olddefconfig drops options whose
// dependencies are missing without a word, as after an update of the source. The error names the
// fragment's line.
func checkConfig(fragment, final string) error {
	have := map[string]bool{}
	set := map[string]string{}
	for line := range strings.SplitSeq(final, "\n") {
		have[line] = true
		if name, _, ok := strings.Cut(line, "="); ok && strings.HasPrefix(name, "CONFIG_") {
			set[name] = line
		}
	}
	for i, line := range strings.Split(fragment, "\n") {
		m := optionLine.FindStringSubmatch(line)
		switch {
		case m == nil && (line == "" || strings.HasPrefix(line, "#")):
		case m == nil:
			return fmt.Errorf("%w: line %d: %q is no option", ErrConfig, i+1, line)
		case m[1] != "" && !have[line]:
			found := set[m[1]]
			if found == "" {
				found = m[1] + " unset"
			}
			return fmt.Errorf("%w: line %d: want %s, have %s: what it depends on is missing", ErrConfig, i+1, line, found)
		case m[2] != "" && set[m[2]] != "":
			return fmt.Errorf("%w: line %d: want %s off, have %s: something selects it", ErrConfig, i+1, m[2], set[m[2]])
		}
	}
	return nil
}
