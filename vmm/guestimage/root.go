// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
)

// maxLinks is the kernel's own bound (MAXSYMLINKS).
const maxLinks = 40

// root is the folder a distribution is installed in, "/" for the host's own. Paths are those that a
// process inside would use, until host makes them the builder's.
type root string

// host is the place of a resolved path on the machine that builds.
func (r root) host(name string) string { return filepath.Join(string(r), name) }

// resolve follows symbolic links of a path as a process with this root would, so that a foreign
// root's absolute links stay in it. It is for a root that nobody changes meanwhile: it looks at
// names, one after the other.
func (r root) resolve(name string) (string, error) {
	done, todo := "/", strings.Split(path.Clean("/"+name), "/")
	for links := 0; len(todo) > 0; {
		next := todo[0]
		todo = todo[1:]
		if next == "" || next == "." {
			continue
		}
		if next == ".." {
			done = path.Dir(done)
			continue
		}
		target, err := os.Readlink(r.host(path.Join(done, next)))
		if err != nil {
			if _, err := os.Lstat(r.host(path.Join(done, next))); err != nil {
				return "", err
			}
			done = path.Join(done, next)
			continue
		}
		if links++; links > maxLinks {
			return "", fmt.Errorf("resolve %q: too many symbolic links", name)
		}
		// From this root's top, not from the builder's.
		if path.IsAbs(target) {
			done = "/"
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return done, nil
}

// exists tells whether something is there, and where when links are followed.
func (r root) exists(name string) (string, bool, error) {
	file, err := r.resolve(name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	}
	return file, err == nil, err
}
