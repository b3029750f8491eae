// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

func set(name, attr, value string) error { return unix.Lsetxattr(name, attr, []byte(value), 0) }

// attr gives an attribute's value, or the error's name.
func attr(name, attr string) string {
	buf := make([]byte, 1<<16)
	n, err := unix.Lgetxattr(name, attr, buf)
	if err != nil {
		return errorName(err)
	}
	return fmt.Sprintf("%q", buf[:n])
}

// list gives the names of the attributes that start with prefix.
func list(name, prefix string) string {
	buf := make([]byte, 1<<16)
	n, err := unix.Llistxattr(name, buf)
	if err != nil {
		return errorName(err)
	}
	var names []string
	for s := range strings.SplitSeq(string(buf[:n]), "\x00") {
		if strings.HasPrefix(s, prefix) && s != "" {
			names = append(names, s)
		}
	}
	slices.Sort(names)
	return strings.Join(names, ",")
}

func xattrCases() []check {
	return []check{
		{"xattr.user", func() string {
			with(write("f", ""), os.Mkdir("d", 0o755))
			return seen(set("f", "user.a", "1"), set("f", "user.b", ""), set("d", "user.c", "\x00\xff"),
				attr("f", "user.a"), attr("f", "user.b"), attr("d", "user.c"), list("f", "user."),
				unix.Removexattr("f", "user.a"), attr("f", "user.a"), list("f", "user."))
		}},
		{"xattr.flags", func() string {
			with(write("f", ""))
			return seen(unix.Setxattr("f", "user.a", []byte("1"), unix.XATTR_REPLACE),
				unix.Setxattr("f", "user.a", []byte("1"), unix.XATTR_CREATE),
				unix.Setxattr("f", "user.a", []byte("2"), unix.XATTR_CREATE),
				unix.Setxattr("f", "user.a", []byte("3"), unix.XATTR_REPLACE), attr("f", "user.a"))
		}},
		{"xattr.size", func() string {
			with(write("f", ""))
			value := strings.Repeat("v", 2000)
			err := set("f", "user.large", value)
			n, qerr := unix.Lgetxattr("f", "user.large", nil)
			_, serr := unix.Lgetxattr("f", "user.large", make([]byte, 10))
			return seen(err, n, qerr, serr, set("f", "user.toolarge", strings.Repeat("v", 1<<16+1)),
				set("f", "user."+strings.Repeat("n", 251), ""))
		}},
		{"xattr.errors", func() string {
			with(write("f", ""), os.Symlink("f", "s"))
			return seen(set("s", "user.a", "1"), set("f", "unknown.a", "1"), set("f", "user.", "1"),
				set("none", "user.a", "1"), attr("f", "user.none"), unix.Removexattr("f", "user.none"))
		}},
		{"xattr.denied", func() string {
			with(write("f", ""), unix.Chmod("f", 0o600), set("f", "user.a", "1"), write("r", ""),
				set("r", "user.a", "1"), os.Mkdir("t", 0o755), unix.Chmod("t", 0o1777))
			return user(func() string {
				return seen(attr("f", "user.a"), set("r", "user.a", "2"), attr("r", "user.a"),
					set("t", "user.a", "1"), set("r", "trusted.a", "1"), set("r", "security.a", "1"))
			})
		}},
		{"xattr.trusted", func() string {
			with(write("f", ""))
			return seen(set("f", "trusted.a", "1"), attr("f", "trusted.a"), list("f", "trusted."))
		}},
		{"xattr.security", func() string {
			with(write("f", ""))
			return seen(set("f", "security.cloister", "1"), attr("f", "security.cloister"))
		}},
		{"xattr.capability", func() string {
			with(write("f", ""))
			err := set("f", "security.capability", netRaw())
			n, gerr := unix.Lgetxattr("f", "security.capability", make([]byte, 100))
			return seen(err, n, gerr, list("f", "security.cap"), write("f", "changed"), attr("f", "security.capability"))
		}},
		{"xattr.capability-chown", func() string {
			with(write("f", ""), set("f", "security.capability", netRaw()))
			return seen(unix.Chown("f", 5, 5), attr("f", "security.capability"))
		}},
		{"xattr.kept", func() string {
			with(write("f", ""), set("f", "user.a", "1"), os.Link("f", "l"))
			return seen(unix.Rename("f", "g"), attr("g", "user.a"), attr("l", "user.a"), unix.Chmod("g", 0o600), attr("g", "user.a"))
		}},
	}
}

// netRaw is what `setcap cap_net_raw+ep` writes: vfs_cap_data of revision 2, with the effective
// bit.
func netRaw() string {
	b := binary.LittleEndian.AppendUint32(nil, 0x02000001)
	b = binary.LittleEndian.AppendUint32(b, 1<<unix.CAP_NET_RAW)
	return string(append(b, make([]byte, 12)...))
}

// acl makes a POSIX access control list: acl_xattr_header of version 2, then tag, permission, id of
// each entry.
func acl(entries ...[3]uint32) string {
	b := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return string(b)
}

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	noID       = 1<<32 - 1
)

// readable lets user 1000 read what its mode gives to its owner alone.
func readable() string {
	return acl([3]uint32{1, 6, noID}, [3]uint32{2, 4, 1000}, [3]uint32{4, 0, noID}, [3]uint32{16, 4, noID}, [3]uint32{32, 0, noID})
}

func aclCases() []check {
	return []check{
		{"acl.grants", func() string {
			with(write("f", "x"), unix.Chmod("f", 0o600))
			err := set("f", aclAccess, readable())
			return seen(err, mode("f"), user(func() string { return text("f") }), as(1001, 1001, nil, func() string { return text("f") }))
		}},
		{"acl.denies", func() string {
			// The mode's group bits are the mask: without the list the group would read.
			with(write("f", "x"))
			err := set("f", aclAccess, acl([3]uint32{1, 6, noID}, [3]uint32{2, 4, 1000}, [3]uint32{4, 0, noID},
				[3]uint32{16, 4, noID}, [3]uint32{32, 4, noID}))
			return seen(err, mode("f"), as(1001, 0, nil, func() string { return text("f") }),
				as(1001, 1001, nil, func() string { return text("f") }))
		}},
		{"acl.mask", func() string {
			with(write("f", "x"), unix.Chmod("f", 0o600))
			err := set("f", aclAccess, readable())
			return seen(err, unix.Chmod("f", 0o600), user(func() string { return text("f") }),
				unix.Chmod("f", 0o640), user(func() string { return text("f") }))
		}},
		{"acl.default", func() string {
			with(os.Mkdir("d", 0o755))
			err := set("d", aclDefault, readable())
			with(write("d/f", "x"), unix.Mkdir("d/sub", 0o755))
			got := attr("d/sub", aclDefault)
			return seen(err, mode("d/f"), user(func() string { return text("d/f") }), mode("d/sub"), got == fmt.Sprintf("%q", readable()))
		}},
		{"acl.umask", func() string {
			// A folder's default list takes the place of the umask.
			with(os.Mkdir("d", 0o755))
			err := set("d", aclDefault, acl([3]uint32{1, 7, noID}, [3]uint32{4, 7, noID}, [3]uint32{32, 7, noID}))
			old := unix.Umask(0o77)
			defer unix.Umask(old)
			f, oerr := unix.Open("d/f", unix.O_CREAT|unix.O_WRONLY, 0o666)
			_ = unix.Close(f)
			return seen(err, oerr, mode("d/f"), unix.Mkdir("d/d", 0o777), mode("d/d"))
		}},
		{"acl.removed", func() string {
			with(write("f", "x"), unix.Chmod("f", 0o600))
			err := set("f", aclAccess, readable())
			return seen(err, list("f", "system."), unix.Removexattr("f", aclAccess), list("f", "system."),
				user(func() string { return text("f") }))
		}},
		{"acl.errors", func() string {
			with(write("f", ""), os.Mkdir("d", 0o755), os.Symlink("f", "s"))
			return seen(set("f", aclAccess, "nonsense"), set("f", aclDefault, readable()),
				set("s", aclAccess, readable()), user(func() string { return seen(set("f", aclAccess, readable())) }),
				bytes.ContainsRune([]byte(list("d", "system.")), 'p'))
		}},
	}
}
