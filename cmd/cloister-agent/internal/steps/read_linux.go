// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// ReadFile reads a file of a container, of at most that many bytes: rel is below dir, as
// every symbolic link on the way. Other than a regular file it does not open.
func ReadFile(dir, rel string, most int64) ([]byte, error) {
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if rel, err = clean(rel); err != nil {
		return nil, err
	}
	f, err := openIn(root, rel, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > most {
		return nil, fmt.Errorf("%s is not a file of at most %d bytes: %w", f.Name(), most, errdefs.ErrInvalidArgument)
	}
	opened, err := os.Open(fdPath(f))
	if err != nil {
		return nil, err
	}
	defer opened.Close()
	return io.ReadAll(io.LimitReader(opened, most))
}
