// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"path/filepath"

	"golang.org/x/sys/unix"

	"cloister/sandbox/statedir"
	"cloister/sys"
)

// removeRun removes a sandbox's run folder, and its namespace's when that was the last one in it.
func removeRun(dir statedir.Dir) error {
	if err := sys.RemoveTree(dir.String()); err != nil {
		return err
	}
	_ = unix.Rmdir(filepath.Dir(dir.String())) // others are in it, as a rule
	return nil
}
