// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

func openCases() []check {
	return []check{
		{"open.excl", func() string {
			with(os.Symlink("nowhere", "link"))
			const flags = unix.O_CREAT | unix.O_EXCL | unix.O_WRONLY
			return seen(open("f", flags), open("f", flags), open("link", flags))
		}},
		{"open.nofollow", func() string {
			with(write("f", ""), os.Symlink("f", "link"))
			return seen(open("f", unix.O_NOFOLLOW), open("link", unix.O_NOFOLLOW),
				open("link", unix.O_NOFOLLOW|unix.O_PATH), open("link", 0))
		}},
		{"open.directory", func() string {
			with(write("f", ""), os.Mkdir("d", 0o755))
			return seen(open("f", unix.O_DIRECTORY), open("d", unix.O_DIRECTORY), open("d", unix.O_WRONLY),
				open("d", unix.O_RDWR|unix.O_CREAT))
		}},
		{"open.missing", func() string {
			with(write("f", ""))
			return seen(open("none", 0), open("none/f", unix.O_CREAT), open("f/f", 0), open("f/", 0), open("", 0))
		}},
		{"open.tmpfile", openTemporary},
		{"open.tmpfile-excl", func() string {
			f, err := unix.Open(".", unix.O_TMPFILE|unix.O_EXCL|unix.O_RDWR, 0o600)
			if err != nil {
				return seen(err)
			}
			defer unix.Close(f)
			return seen(err, unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f), unix.AT_FDCWD, "named", unix.AT_SYMLINK_FOLLOW))
		}},
		{"open.direct", openDirect},
		{"open.append", func() string {
			a, b := file("f", unix.O_CREAT|unix.O_WRONLY|unix.O_APPEND), file("f", unix.O_WRONLY|unix.O_APPEND)
			defer a.Close()
			defer b.Close()
			_, e1 := a.WriteString("1")
			_, e2 := b.WriteString("2")
			_, e3 := a.Seek(0, 0)
			_, e4 := a.WriteString("3")
			return seen(errs(e1, e2, e3, e4), text("f"))
		}},
		{"open.sync", func() string {
			a, b := file("a", unix.O_CREAT|unix.O_WRONLY|unix.O_SYNC), file("b", unix.O_CREAT|unix.O_WRONLY|unix.O_DSYNC)
			defer a.Close()
			defer b.Close()
			_, e1 := a.WriteString("a")
			_, e2 := b.WriteString("b")
			return seen(e1, e2, text("a"), text("b"))
		}},
		{"open.truncate", func() string {
			with(write("f", "text"))
			return seen(open("f", unix.O_TRUNC|unix.O_WRONLY), lstat("f").Size)
		}},
	}
}

func accessCases() []check {
	return []check{
		{"open.mode", func() string {
			a, err := unix.Open("f", unix.O_CREAT|unix.O_RDWR, 0)
			_, werr := unix.Write(a, []byte("x"))
			_ = unix.Close(a)
			return seen(err, werr, mode("f"), open("f", unix.O_RDWR), user(func() string { return seen(open("f", 0)) }))
		}},
		{"open.path", func() string {
			with(write("f", "x"))
			f := file("f", unix.O_PATH)
			defer f.Close()
			_, err := unix.Read(fd(f), make([]byte, 1))
			return seen(err, text(fmt.Sprintf("/proc/self/fd/%d", fd(f))))
		}},
		{"open.direction", func() string {
			with(write("f", "x"))
			r, w := file("f", unix.O_RDONLY), file("f", unix.O_WRONLY)
			defer r.Close()
			defer w.Close()
			_, e1 := unix.Write(fd(r), []byte("y"))
			_, e2 := unix.Read(fd(w), make([]byte, 1))
			return seen(e1, e2)
		}},
		{"open.noatime", func() string {
			with(write("f", "x"))
			return seen(open("f", unix.O_NOATIME), user(func() string { return seen(open("f", unix.O_NOATIME)) }))
		}},
		{"open.denied", func() string {
			with(write("r", "x"), os.Mkdir("closed", 0o700), write("closed/f", ""))
			return user(func() string {
				return seen(open("r", 0), open("r", unix.O_WRONLY), open("r", unix.O_TRUNC), open("new", unix.O_CREAT), open("closed/f", 0))
			})
		}},
		{"open.beneath", func() string {
			with(os.Mkdir("d", 0o755), write("f", ""), os.Symlink("../f", "d/link"))
			d := file("d", unix.O_PATH)
			defer d.Close()
			try := func(name string, resolve uint64) error {
				f, err := unix.Openat2(fd(d), name, &unix.OpenHow{Flags: unix.O_RDONLY, Resolve: resolve})
				if err == nil {
					err = unix.Close(f)
				}
				return err
			}
			return seen(try("../f", unix.RESOLVE_BENEATH), try("link", unix.RESOLVE_BENEATH),
				try("link", unix.RESOLVE_NO_SYMLINKS), try("link", 0))
		}},
		{"open.access", func() string {
			with(write("x", ""), os.Chmod("x", 0o711))
			return seen(unix.Access("x", unix.X_OK), user(func() string {
				return seen(unix.Faccessat2(unix.AT_FDCWD, "x", unix.X_OK, unix.AT_EACCESS),
					unix.Faccessat2(unix.AT_FDCWD, "x", unix.R_OK, unix.AT_EACCESS))
			}))
		}},
	}
}

// openTemporary makes a file without a name, and gives it one.
func openTemporary() string {
	f, err := unix.Open(".", unix.O_TMPFILE|unix.O_RDWR, 0o600)
	if err != nil {
		return seen(err)
	}
	defer unix.Close(f)
	_, err = unix.Write(f, []byte("temporary"))
	entries, rerr := os.ReadDir(".")
	lerr := unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", f), unix.AT_FDCWD, "named", unix.AT_SYMLINK_FOLLOW)
	return seen(err, rerr, len(entries), lerr, text("named"))
}

func openDirect() string {
	f, err := unix.Open("f", unix.O_CREAT|unix.O_RDWR|unix.O_DIRECT, 0o644)
	if err != nil {
		return seen(err)
	}
	defer unix.Close(f)
	buf, err := unix.Mmap(-1, 0, 8192, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON) // aligned
	if err != nil {
		return seen(err)
	}
	defer unmap(buf)
	copy(buf, "direct")
	n, werr := unix.Pwrite(f, buf[:4096], 4096)
	m, rerr := unix.Pread(f, buf[4096:], 4096)
	return seen(n, werr, m, rerr, string(buf[4096:4102]), lstat("f").Size, uintptr(unsafe.Pointer(&buf[0]))%4096)
}
