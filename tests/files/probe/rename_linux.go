// SPDX-License-Identifier: Apache-2.0

package main

import (
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// rename2 renames a.
func rename2(to string, flags uint) error {
	return unix.Renameat2(unix.AT_FDCWD, "a", unix.AT_FDCWD, to, flags)
}

func renameCases() []check {
	return []check{
		{"rename.over", func() string {
			with(write("a", "a"), write("b", "b"))
			before := lstat("a").Ino
			return seen(unix.Rename("a", "b"), text("a"), text("b"), lstat("b").Ino == before)
		}},
		{"rename.over-open", func() string {
			with(write("a", "a"), write("b", "b"))
			f := file("b", unix.O_RDONLY)
			defer f.Close()
			err := unix.Rename("a", "b")
			data, rerr := io.ReadAll(f)
			return seen(err, rerr, string(data), text("b"))
		}},
		{"rename.while-open", func() string {
			with(write("a", ""))
			f := file("a", unix.O_RDWR)
			defer f.Close()
			err := unix.Rename("a", "b")
			_, werr := f.WriteString("later")
			var st unix.Stat_t
			return seen(err, werr, text("b"), unix.Fstat(fd(f), &st), st.Nlink, open("a", 0))
		}},
		{"rename.folder", func() string {
			with(os.MkdirAll("a/sub", 0o755), write("a/sub/f", "x"), os.Mkdir("empty", 0o755),
				os.Mkdir("full", 0o755), write("full/f", ""), write("f", ""))
			return seen(unix.Rename("a", "full"), unix.Rename("a", "f"), unix.Rename("f", "a"),
				unix.Rename("a", "a/sub/a"), unix.Rename("a", "empty"), text("empty/sub/f"), open("a", 0))
		}},
		{"rename.open-folder", func() string {
			with(os.Mkdir("a", 0o755), write("a/f", "x"))
			d := file("a", unix.O_RDONLY|unix.O_DIRECTORY)
			defer d.Close()
			err := unix.Rename("a", "b")
			n, oerr := unix.Openat(fd(d), "new", unix.O_CREAT|unix.O_WRONLY, 0o644)
			_ = unix.Close(n)
			names, rerr := d.Readdirnames(-1)
			return seen(err, oerr, len(names), rerr, text("b/new"), open("b/f", 0))
		}},
		{"rename.between-folders", func() string {
			with(os.MkdirAll("a/d", 0o755), os.Mkdir("b", 0o755), write("a/d/f", "x"))
			return seen(unix.Rename("a/d", "b/d"), text("b/d/f"), open("b/d/../../a", unix.O_DIRECTORY), open("a/d", 0))
		}},
		{"rename.missing", func() string {
			with(write("f", ""))
			return seen(unix.Rename("none", "x"), unix.Rename("f", "none/x"), unix.Rename("f", "f"),
				unix.Rename("f", "g/"), unix.Rename("f", strings.Repeat("n", 256)))
		}},
		{"rename.same-file", func() string {
			with(write("a", "x"), os.Link("a", "b"))
			return seen(unix.Rename("a", "b"), text("a"), text("b"))
		}},
	}
}

func renameFlagCases() []check {
	return []check{
		{"rename.noreplace", func() string {
			with(write("a", "a"), write("b", "b"))
			return seen(rename2("b", unix.RENAME_NOREPLACE), rename2("c", unix.RENAME_NOREPLACE), text("c"), text("b"))
		}},
		{"rename.exchange", func() string {
			with(write("a", "a"), write("b", "b"))
			return seen(rename2("b", unix.RENAME_EXCHANGE), text("a"), text("b"), rename2("none", unix.RENAME_EXCHANGE))
		}},
		{"rename.exchange-kinds", func() string {
			with(write("a", "a"), os.Mkdir("d", 0o755), write("d/f", "f"))
			return seen(rename2("d", unix.RENAME_EXCHANGE), text("a/f"), text("d"))
		}},
		{"rename.flags", func() string {
			with(write("a", ""))
			return seen(rename2("b", unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE), rename2("b", 1<<10))
		}},
		{"rename.denied", func() string {
			with(write("f", ""), os.Mkdir("open", 0o777), os.Chmod("open", 0o777), write("open/f", ""))
			return user(func() string {
				return seen(unix.Rename("f", "g"), unix.Rename("f", "open/g"), unix.Rename("open/f", "open/g"))
			})
		}},
		{"rename.many", func() string {
			// Replacing a file by a new one, as editors and databases do.
			for range 50 {
				if err := errs(write("new", "text"), unix.Rename("new", "f")); err != nil {
					return seen(err)
				}
				if got := text("f"); got != "text" {
					return seen("read", got)
				}
			}
			return seen(lstat("f").Nlink)
		}},
	}
}

func linkCases() []check {
	return []check{
		{"link.count", func() string {
			with(write("a", "x"))
			err := os.Link("a", "b")
			two := lstat("a").Nlink
			rerr := os.Remove("a")
			return seen(err, two, sameInode("b", "b"), rerr, lstat("b").Nlink, text("b"))
		}},
		{"link.same", func() string {
			with(write("a", "x"), os.Link("a", "b"), write("b", "changed"), os.Chmod("a", 0o600))
			return seen(sameInode("a", "b"), text("a"), mode("b"))
		}},
		{"link.errors", func() string {
			with(write("a", ""), os.Mkdir("d", 0o755), os.Symlink("a", "s"))
			return seen(unix.Link("d", "x"), unix.Link("a", "d"), unix.Link("none", "x"), unix.Link("a", "none/x"),
				unix.Linkat(unix.AT_FDCWD, "s", unix.AT_FDCWD, "s2", 0), lstat("s2").Mode&unix.S_IFMT == unix.S_IFLNK, lstat("s").Nlink)
		}},
		{"link.many", func() string {
			with(write("a", ""))
			for i := range 200 {
				with(os.Link("a", "l"+strings.Repeat("x", i%200)+string(rune('a'+i/200))))
			}
			return seen(lstat("a").Nlink)
		}},
		{"symlink.read", func() string {
			target := "some/../where else"
			err := unix.Symlink(target, "s")
			got, rerr := os.Readlink("s")
			return seen(err, rerr, got, lstat("s").Size, open("s", 0), open("s", unix.O_CREAT), unix.Symlink("x", "s"))
		}},
		{"symlink.empty", func() string { return seen(unix.Symlink("", "s")) }},
		{"symlink.loop", func() string {
			with(os.Symlink("b", "a"), os.Symlink("a", "b"), os.Symlink("self", "self"))
			return seen(open("a", 0), open("self", unix.O_CREAT), os.Remove("a"))
		}},
		{"symlink.chain", func() string {
			with(write("l0", "x"))
			for i := range 41 {
				with(os.Symlink("l"+string(rune('0'+i)), "l"+string(rune('0'+i+1))))
			}
			return seen(text("l"+string(rune('0'+40))), text("l"+string(rune('0'+41))))
		}},
		{"symlink.long", func() string {
			long := strings.Repeat("x", 4095)
			err := unix.Symlink(long, "s")
			got, rerr := os.Readlink("s")
			return seen(err, rerr, got == long, unix.Symlink(long+"x", "t"))
		}},
		{"symlink.create-through", func() string {
			with(os.Symlink("target", "s"))
			return seen(write("s", "x"), text("target"), unix.Unlink("s"), text("target"))
		}},
	}
}
