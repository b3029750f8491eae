// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"
)

// openRetries bounds the retries of one openat2: the kernel answers EAGAIN when a rename races with
// the walk, and whoever renames may do so for ever.
const openRetries = 128

// beneath is how a name below a descriptor is resolved: no component may be a link, and none leads
// out of the folder.
const beneath = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// OpenBelow opens name, a relative path, below the folder dir. A symbolic link in any component is
// ELOOP; a path that leaves dir is EXDEV. Mounts below dir are followed. perm counts with O_CREAT
// and O_TMPFILE alone. The caller closes the file, whose name is for people. It is one call of the
// kernel's (openat2): whoever exchanges names meanwhile cannot get between a check and the open.
//
// A FIFO blocks and a device is opened unless flags has O_PATH or O_NONBLOCK.
func OpenBelow(dir *os.File, name string, flags int, perm uint32) (*os.File, error) {
	return openAt(dir, name, flags, perm, beneath)
}

// OpenBelowHere is OpenBelow that does not cross into a mount either, which is EXDEV.
func OpenBelowHere(dir *os.File, name string, flags int, perm uint32) (*os.File, error) {
	return openAt(dir, name, flags, perm, beneath|unix.RESOLVE_NO_XDEV)
}

// OpenNoLinks opens an absolute path of which no component is a link; one that is, is ELOOP. It is
// for callers that have no descriptor to begin at. Who may write to a folder on the way can still
// put another folder there, but never a link.
func OpenNoLinks(path string, flags int) (*os.File, error) {
	if !filepath.IsAbs(path) {
		return nil, &os.PathError{Op: "open", Path: path, Err: errors.New("want an absolute path")}
	}
	return openAt(nil, path, flags, 0, unix.RESOLVE_NO_SYMLINKS|unix.RESOLVE_NO_MAGICLINKS)
}

// Reopen opens the file of a descriptor again with other flags: for reading what was opened with
// O_PATH. It needs /proc. No name is resolved, so nothing can be put in the file's place. The
// caller closes the new file; f stays as it is.
func Reopen(f *os.File, flags int) (*os.File, error) {
	defer runtime.KeepAlive(f)
	fd, err := retry(func() (int, error) {
		return unix.Open(fmt.Sprintf("/proc/self/fd/%d", f.Fd()), flags|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return nil, &os.PathError{Op: "reopen", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// MkdirBelow makes the folder name, one component, in dir and opens it with O_PATH. One that exists
// already is EEXIST: it may be somebody else's. The umask applies to perm.
func MkdirBelow(dir *os.File, name string, perm uint32) (*os.File, error) {
	defer runtime.KeepAlive(dir)
	if err := component(name); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	if err := unix.Mkdirat(int(dir.Fd()), name, perm); err != nil {
		return nil, &os.PathError{Op: "mkdir", Path: filepath.Join(dir.Name(), name), Err: err}
	}
	return OpenBelow(dir, name, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// openAt is openat2 with retries. A mode without O_CREAT is EINVAL to openat2, so perm is dropped
// then.
func openAt(dir *os.File, name string, flags int, perm uint32, resolve uint64) (*os.File, error) {
	defer runtime.KeepAlive(dir)
	at, full := unix.AT_FDCWD, name
	if dir != nil {
		at, full = int(dir.Fd()), filepath.Join(dir.Name(), name)
	}
	how := unix.OpenHow{Flags: uint64(flags) | unix.O_CLOEXEC, Resolve: resolve}
	if flags&unix.O_CREAT != 0 || flags&unix.O_TMPFILE == unix.O_TMPFILE {
		how.Mode = uint64(perm)
	}
	fd, err := retry(func() (int, error) { return unix.Openat2(at, name, &how) })
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: full, Err: err}
	}
	return os.NewFile(uintptr(fd), full), nil
}

// retry repeats a call that a signal or a rename has interrupted.
func retry(open func() (int, error)) (fd int, err error) {
	for range openRetries {
		fd, err = open()
		if !errors.Is(err, unix.EINTR) && !errors.Is(err, unix.EAGAIN) {
			return fd, err
		}
	}
	return fd, err
}

// component refuses what is not one name.
func component(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%q is not the name of one file: %w", name, unix.EINVAL)
	}
	return nil
}
