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
// every symbolic link on the way. Other than a regular file it does not open. An image may have a
// FIFO or a device under the name, at which an open would block or act.
func ReadFile(dir, rel string, most int64) ([]byte, error) {
	root, err := openRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	if rel, err = clean(rel); err != nil {
		return nil, err
	}
	// O_PATH opens nothing of the file itself, so its kind can be looked at first.
	f, err := openIn(root, rel, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	// The size is checked and the read bounded as well: the file may grow in between.
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
