// SPDX-License-Identifier: Apache-2.0

package engines

import (
	"fmt"
	"slices"
	"strings"
)

// DropIn is the name of cloister's own file in an engine's folder of settings. The ending is what
// Podman and CRI-O read.
const DropIn = "cloister.conf"

// own is how a file that cloister has written begins. It is compared from the first byte, so a file
// that somebody has begun with a line of their own stays.
const own = "# Written by `cloister install`; taken away by the same with --remove.\n"

// file is a whole file of cloister's own. Podman and CRI-O read all files of a folder, so nothing
// of the owner's has to be changed.
type file struct {
	path    string
	text    []byte
	missing bool
}

// add gives the change to a new text. A file that somebody else has written stays. Done twice,
// Before and After are equal.
func (f file) add(text string) (Change, error) {
	change := Change{Path: f.path, Before: f.text, New: f.missing, After: []byte(own + text)}
	return change, f.check()
}

// remove gives the change that takes the file away. A file that is not there needs no change.
func (f file) remove() (Change, error) {
	change := Change{Path: f.path, Before: f.text}
	if len(f.text) == 0 {
		return change, nil
	}
	return change, f.check()
}

// check refuses a file of that name that cloister has not written.
func (f file) check() error {
	if len(f.text) > 0 && !strings.HasPrefix(string(f.text), own) {
		return fmt.Errorf("%w: %s exists, and cloister did not write it: move it, or add by hand "+
			"what --dry-run prints with another --file",
			ErrConfig, f.path)
	}
	return nil
}

// quoted is a list of strings in TOML. Go's quoting is valid TOML for names and paths.
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
