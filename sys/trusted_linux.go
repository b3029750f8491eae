// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxLinks bounds the symbolic links of one path, as the kernel does (MAXSYMLINKS).
const maxLinks = 40

// Trusted is an error when somebody other than root could change what path, or a folder or link on
// the way to it, is. What does not exist yet is as its folder is: where others may make it, as in
// /tmp, it is theirs. Only root asks: nobody else's mistake gives power away. It is a check of
// configuration, not of names that change: between it and the use, nobody but root can change the
// path, which is what it has found. The error has the command that mends it.
func Trusted(path string) error {
	if os.Geteuid() != 0 {
		return nil
	}
	if !filepath.IsAbs(path) {
		folder, err := os.Getwd()
		if err != nil {
			return err
		}
		path = folder + "/" + path
	}
	return trusted(path)
}

// trusted walks an absolute path, part by part.
func trusted(path string) error {
	at, rest := "/", parts(path)
	open := false // others may make entries in the folder that was judged last
	for links := 0; ; {
		var st unix.Stat_t
		err := unix.Lstat(at, &st)
		if errors.Is(err, fs.ErrNotExist) {
			return missing(path, at, open)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", at, err)
		}
		if err := cmp.Or(trust(path, at, st), trustACL(path, at, st)); err != nil {
			return err
		}
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			target, err := readLink(at)
			if links++; err != nil || links > maxLinks {
				return fmt.Errorf("%s: link %d, %s: %w", path, links, at, cmp.Or(err, error(unix.ELOOP)))
			}
			at, rest = "/", append(parts(target), rest...)
			continue
		}
		if len(rest) == 0 {
			return nil
		}
		if open, err = listed(at, st); err != nil {
			return err
		}
		open = open || othersWrite(st)
		at, rest = filepath.Join(at, rest[0]), rest[1:] // .. is the parent of a folder that has been judged
	}
}

// missing judges a part of a path that is not there.
func missing(path, at string, open bool) error {
	if !open {
		return nil
	}
	return fmt.Errorf("%s%s: it does not exist, and others may make it: root relies on it: make it as root, or name another "+
		"path: %w", at, onTheWay(path, at), errdefs.ErrPermissionDenied)
}

// readLink gives what a link leads to as an absolute path.
func readLink(link string) (string, error) {
	target, err := os.Readlink(link)
	if err == nil && !filepath.IsAbs(target) {
		target = filepath.Dir(link) + "/" + target
	}
	return target, err
}

// parts are the names of an absolute path, as the kernel walks them: .. stays, since a link may
// stand before it.
func parts(path string) []string {
	return strings.FieldsFunc(path, func(r rune) bool { return r == '/' })
}

// trust judges one part of a path. In a sticky folder only the owner of an entry can replace
// it, and each entry is judged by itself. Group 0 is root's.
func trust(path, at string, st unix.Stat_t) error {
	remedy := fmt.Sprintf("root relies on it: chown root:root %s; chmod go-w %s", at, at)
	on := onTheWay(path, at)
	link, sticky := st.Mode&unix.S_IFMT == unix.S_IFLNK, st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0
	switch {
	case st.Uid != 0:
		return fmt.Errorf("%s%s: owner is uid %d, want root: %s: %w", at, on, st.Uid, remedy, errdefs.ErrPermissionDenied)
	case link, sticky:
		return nil
	case othersWrite(st):
		return fmt.Errorf("%s%s: mode is %#o, others may write there: %s: %w", at, on, st.Mode&0o7777, remedy, errdefs.ErrPermissionDenied)
	}
	return nil
}

// othersWrite says that the mode lets somebody other than root write. In a sticky folder that is
// making entries.
func othersWrite(st unix.Stat_t) bool {
	return st.Mode&unix.S_IWOTH != 0 || st.Mode&unix.S_IWGRP != 0 && st.Gid != 0
}

// trustACL judges the access control list of one part of a path. A list that gives writing to
// somebody by name is refused without asking to whom. In a sticky folder that is making entries:
// see trusted.
func trustACL(path, at string, st unix.Stat_t) error {
	if st.Mode&unix.S_IFMT == unix.S_IFDIR && st.Mode&unix.S_ISVTX != 0 {
		return nil
	}
	found, err := listed(at, st)
	if found {
		return fmt.Errorf("%s%s: its access control list lets others write: root relies on it: setfacl -b %s; chmod go-w %s: %w",
			at, onTheWay(path, at), at, at, errdefs.ErrPermissionDenied)
	}
	return err
}

// listed says that a file or folder has an access control list that may let somebody write. The
// group's bits of the mode are the most that any entry of the list gives then, so that root's group
// has them says nothing.
func listed(at string, st unix.Stat_t) (bool, error) {
	if st.Mode&unix.S_IFMT == unix.S_IFLNK || st.Mode&unix.S_IWGRP == 0 {
		return false, nil
	}
	switch _, err := unix.Lgetxattr(at, "system.posix_acl_access", nil); {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, fs.ErrNotExist):
		return false, nil // a list that says no more than the mode is not kept
	default:
		return false, fmt.Errorf("access control list of %s: %w", at, err)
	}
}

func onTheWay(path, at string) string {
	if at == path {
		return ""
	}
	return ", on the way to " + path
}
