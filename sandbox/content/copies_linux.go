// SPDX-License-Identifier: Apache-2.0

package content

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sandbox/plan"
)

// maxCopied bounds a file that is copied into the guest instead of shared. The shim keeps the bytes
// for comparison, and sends them to the guest as a whole.
const maxCopied = 1 << 20

// errRefused marks a file that is not fit to be copied.
var errRefused = errors.New("refused")

// Copied is a file of the engine's whose bytes a container has. Its methods are not to be called at
// once. Data is what was read last and was fit. folder and name find the file again; file is the
// one that was there when the container was made.
type Copied struct {
	plan.Copy

	Data []byte // as the guest has it

	folder  *os.File
	file    *os.File
	name    string
	admit   func(*os.File) error
	watches []int
	refused string // what the log has been told
}

// OpenCopies reads the files that a container gets copies of. They keep their own descriptors. The
// Files may be closed before: the copies live as long as the container. An error closes what was
// opened. admit is asked of each file that has its name later, before that is read; those that are
// opened now have been admitted.
func (f *Files) OpenCopies(copies []plan.Copy, admit func(*os.File) error) (_ []*Copied, err error) {
	var out []*Copied
	defer func() {
		if err != nil {
			closeCopies(out)
		}
	}()
	for _, c := range copies {
		s := f.sources[c.Mount]
		one := &Copied{Copy: c, name: filepath.Base(s.file.Name()), admit: admit}
		if one.file, err = duplicate(s.file); err == nil {
			one.folder, err = duplicate(s.folder)
		}
		out = append(out, one)
		if err == nil {
			one.Data, err = ReadCopied(one.file)
		}
		if err != nil {
			return nil, fmt.Errorf("mount %q: %w", c.Destination, err)
		}
	}
	return out, nil
}

func closeCopies(list []*Copied) {
	for _, c := range list {
		for _, f := range []*os.File{c.file, c.folder} {
			if f != nil {
				_ = f.Close() // O_PATH
			}
		}
	}
}

// Refresh reads the file again and says whether its bytes have changed since. A file that is gone
// keeps its bytes: the engine is taking the container away. So does one that is not fit to be
// copied any more, which is an error of the first call that sees it; later calls are silent until
// the reason changes. A guest that can write to the folder could otherwise fill the log by one bad
// file.
func (c *Copied) Refresh() (changed bool, err error) {
	data, err := c.read()
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return false, nil
	case err != nil:
		if c.refused == err.Error() {
			return false, nil
		}
		c.refused = err.Error()
		return false, fmt.Errorf("%s is left unchanged in the container: %w", c.Destination, err)
	}
	c.refused = ""
	changed = !bytes.Equal(data, c.Data)
	c.Data = data
	return changed, nil
}

// read reads what has the file's name in its folder now. Only the last name is resolved, below a
// descriptor: nobody can move the folder's path under the reader. It may be another file than the
// one that was admitted: whoever may write to the folder can give the name to any file that he may
// link or rename.
func (c *Copied) read() ([]byte, error) {
	file, err := openLeaf(c.folder, c.name)
	if err != nil {
		return nil, err
	}
	defer file.Close() // O_PATH
	if err := c.admit(file); err != nil {
		return nil, err
	}
	return ReadCopied(file)
}

// readBounded reads one byte more than allowed, to tell "too large" from "as large as allowed".
func readBounded(f *os.File) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, maxCopied+1))
	if err == nil && len(data) > maxCopied {
		err = fmt.Errorf("%q is over %d bytes: make it smaller: %w", f.Name(), maxCopied, errdefs.ErrInvalidArgument)
	}
	return data, err
}

// duplicate gives a second descriptor of an open file, closed on exec: QEMU must not inherit it.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("duplicate the descriptor of %q: %w", f.Name(), err)
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
