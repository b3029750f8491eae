// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

const folderMode = 0o755

// fdPath names an open file for calls that take no descriptor. It is valid while f is open. The
// kernel follows it to the file itself, whatever the name means by now.
func fdPath(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// clean checks a path relative to a root. The host never sends another one, so an error here is a
// fault of the host or of the contract.
func clean(rel string) (string, error) {
	if rel == "" || filepath.IsAbs(rel) || strings.ContainsRune(rel, 0) {
		return "", fmt.Errorf("path %q is not relative: %w", rel, errdefs.ErrInvalidArgument)
	}
	rel = filepath.Clean(rel)
	if rel == ".." || strings.HasPrefix(rel, "../") {
		return "", fmt.Errorf("path %q leaves its folder: %w", rel, errdefs.ErrInvalidArgument)
	}
	return rel, nil
}

// openIn opens a path inside root, whatever symbolic links say. The kernel keeps the walk inside: a
// link to "/" or ".." ends at root, and links of /proc are not followed. The caller closes the
// file.
func openIn(root *os.File, rel string, flags int, mode uint32) (*os.File, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&unix.O_CREAT != 0 {
		how.Mode = uint64(mode)
	}
	// The kernel gives up where a rename could have led the walk out of root; the caller wants the
	// answer all the same.
	for {
		fd, err := unix.Openat2(int(root.Fd()), rel, &how)
		switch {
		case err == nil:
			return os.NewFile(uintptr(fd), filepath.Join(root.Name(), rel)), nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN): // a rename during the walk
			continue
		default:
			return nil, &os.PathError{Op: "open", Path: filepath.Join(root.Name(), rel), Err: err}
		}
	}
}

// openRoot opens a root by name. Both roots are folders of the agent's own, which no container can
// rename.
func openRoot(path string) (*os.File, error) {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// folderIn opens a folder inside root, making what is missing. It goes component by component:
// MkdirAll would resolve the whole name anew each time, outside of root's protection.
func folderIn(root *os.File, rel string, mode uint32) (*os.File, error) {
	rel, err := clean(rel)
	if err != nil {
		return nil, err
	}
	at := "."
	for name := range strings.SplitSeq(rel, "/") {
		if err := mkdirIn(root, at, name, mode); err != nil {
			return nil, err
		}
		at = filepath.Join(at, name)
	}
	return openIn(root, at, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// mkdirIn makes one folder. One that is there is fine, whatever its mode; another kind of file is
// found by the next open.
func mkdirIn(root *os.File, at, name string, mode uint32) error {
	parent, err := openIn(root, at, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer parent.Close()
	err = unix.Mkdirat(int(parent.Fd()), name, mode)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return &os.PathError{Op: "mkdir", Path: filepath.Join(parent.Name(), name), Err: err}
	}
	return nil
}

// fileIn opens a file inside root to mount on, making it when it is missing.
func fileIn(root *os.File, rel string) (*os.File, error) {
	rel, err := clean(rel)
	if err != nil {
		return nil, err
	}
	if err := makeParent(root, rel); err != nil {
		return nil, err
	}
	// NONBLOCK: a FIFO in that place would block the open until it has a writer. For an existing
	// file CREAT without EXCL changes nothing.
	f, err := openIn(root, rel, unix.O_CREAT|unix.O_RDONLY|unix.O_NONBLOCK, 0o644)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// The second open is for a mount's target, which wants O_PATH.
	return openIn(root, rel, unix.O_PATH, 0)
}

// makeParent makes the folder of a file; root itself is there.
func makeParent(root *os.File, rel string) error {
	parent := filepath.Dir(rel)
	if parent == "." {
		return nil
	}
	dir, err := folderIn(root, parent, folderMode)
	if err != nil {
		return err
	}
	return dir.Close()
}

// WriteFile makes a file of the container's folder. A file that is there is an error: it would be
// one of the workload's, or of an earlier step. Owner and mode are set by descriptor, against the
// umask.
func WriteFile(dir, rel string, data []byte, mode os.FileMode, uid, gid int) error {
	root, err := openRoot(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if rel, err = clean(rel); err != nil {
		return err
	}
	if err := makeParent(root, rel); err != nil {
		return err
	}
	f, err := openIn(root, rel, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, uint32(mode.Perm()))
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Chown(uid, gid), f.Chmod(mode.Perm()), f.Close())
}
