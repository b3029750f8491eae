// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"fmt"
	"os/exec"
)

// Program finds a program that is to run with this process's rights: the path that name is, or the
// first of that name in PATH. For root it is an error when somebody else could replace it (see
// Trusted). A program that is not found wraps exec.ErrNotFound or fs.ErrNotExist. Links are not
// resolved: some programs go by the name that they are called by.
func Program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	if err := Trusted(path); err != nil {
		return "", fmt.Errorf("program %s: %w", path, err)
	}
	return path, nil
}
