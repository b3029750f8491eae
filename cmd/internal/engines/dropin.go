// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"slices"
	"strings"
)

// DropIn is the name of cloister's own file in an engine's folder of settings.
const DropIn = "cloister.conf"

// own is how a file that cloister has written begins.
const own = "# Written by `cloister install`; taken away by the same with --remove.\n"

// file is a whole file of cloister's own.
type file struct {
	path    string
	text    []byte
	missing bool
}

// add gives the change to a new text. A file that somebody else has written stays.
func (f file) add(text string) (Change, error) {
	change := Change{Path: f.path, Before: f.text, New: f.missing, After: []byte(own + text)}
	return change, f.check()
}

// remove gives the change that takes the file away.
func (f file) remove() (Change, error) {
	change := Change{Path: f.path, Before: f.text}
	if len(f.text) == 0 {
		return change, nil
	}
	return change, f.check()
}

func (f file) check() error {
	if len(f.text) > 0 && !strings.HasPrefix(string(f.text), own) {
		return fmt.Errorf("%w: %s is there, and cloister has not written it: move it, or add by hand "+
			"what --dry-run prints with another --file",
			ErrConfig, f.path)
	}
	return nil
}

// quoted is a list of strings in TOML.
func quoted(list []string) string {
	var out []string
	for _, s := range list {
		out = append(out, fmt.Sprintf("%q", s))
	}
	return "[" + strings.Join(out, ", ") + "]"
}

// with is a list with one more, unless it is in it.
func with(list []string, name string) []string {
	if slices.Contains(list, name) {
		return list
	}
	return append(slices.Clone(list), name)
}
