// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"path/filepath"

	"golang.org/x/sys/unix"

	"cloister/sandbox/statedir"
	"cloister/sys"
)

// removeTree removes a folder that cloister made, with all that is in it. It never crosses into a
// mount: see sys.RemoveBelow. A folder that does not exist is no error.
func removeTree(dir string) error { return sys.RemoveTree(dir) }

// removeRun removes a sandbox's run folder, and its namespace's when that was the last one in it.
func removeRun(dir statedir.Dir) error {
	if err := removeTree(dir.String()); err != nil {
		return err
	}
	_ = unix.Rmdir(filepath.Dir(dir.String())) // others are in it, as a rule
	return nil
}
