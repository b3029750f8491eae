// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

func modeCases() []check {
	return []check{
		{"chmod.bits", func() string {
			with(write("f", ""), os.Mkdir("d", 0o755))
			f := file("f", unix.O_RDONLY)
			defer f.Close()
			return seen(unix.Chmod("f", 0o7777), mode("f"), unix.Chmod("d", 0o3777), mode("d"), unix.Fchmod(fd(f), 0), mode("f"))
		}},
		{"chmod.link", func() string {
			with(os.Symlink("f", "s"), write("f", ""))
			return seen(unix.Fchmodat(unix.AT_FDCWD, "s", 0o600, unix.AT_SYMLINK_NOFOLLOW), unix.Chmod("s", 0o640), mode("f"))
		}},
		{"chmod.denied", func() string {
			with(write("f", ""))
			return user(func() string { return seen(unix.Chmod("f", 0o777)) })
		}},
		{"chmod.sgid-foreign", func() string {
			// Who is not in the file's group cannot give the group away.
			with(write("f", ""), os.Chown("f", 1000, 50))
			return seen(user(func() string { return seen(unix.Chmod("f", 0o2755)) }), mode("f"),
				as(1000, 1000, []uint32{50}, func() string { return seen(unix.Chmod("f", 0o2755)) }), mode("f"))
		}},
		{"suid.write", func() string {
			with(write("f", "x"), os.Chown("f", 0, 0), unix.Chmod("f", 0o6777))
			root := seen(write("f", "y"), mode("f"))
			return seen(root, user(func() string { return seen(open("f", unix.O_WRONLY), writeAt("f")) }), mode("f"))
		}},
		{"suid.truncate", func() string {
			with(write("f", "x"), unix.Chmod("f", 0o6777))
			return seen(user(func() string { return seen(unix.Truncate("f", 0)) }), mode("f"))
		}},
		{"suid.open-truncate", func() string {
			with(write("f", "x"), unix.Chmod("f", 0o6777))
			return seen(user(func() string { return seen(open("f", unix.O_WRONLY|unix.O_TRUNC)) }), mode("f"))
		}},
		{"suid.open-truncate-asked", func() string {
			// The same, asking whoever has the file and not what is remembered of it.
			with(write("f", "x"), unix.Chmod("f", 0o6777))
			said := user(func() string { return seen(open("f", unix.O_WRONLY|unix.O_TRUNC)) })
			var st unix.Statx_t
			err := unix.Statx(unix.AT_FDCWD, "f", unix.AT_STATX_FORCE_SYNC, unix.STATX_MODE, &st)
			return seen(said, err, fmt.Sprintf("%o", st.Mode&0o7777))
		}},
		{"suid.chown", func() string {
			with(write("f", ""), write("g", ""), unix.Chmod("f", 0o6755), unix.Chmod("g", 0o6644))
			return seen(unix.Chown("f", 5, 6), mode("f"), unix.Chown("g", 5, 6), mode("g"))
		}},
		{"sgid.inherited", func() string {
			with(os.Mkdir("d", 0o755), os.Chown("d", 1000, 77), unix.Chmod("d", 0o2775))
			with(write("d/f", ""), unix.Mkdir("d/sub", 0o755), write("d/sub/f", ""), os.Symlink("x", "d/s"))
			own := user(func() string { return seen(write("d/mine", ""), unix.Mkdir("d/my", 0o755)) })
			return seen(owner("d/f"), owner("d/sub"), mode("d/sub"), owner("d/sub/f"), owner("d/s"), own,
				owner("d/mine"), owner("d/my"), mode("d/my"))
		}},
		{"sgid.create-foreign", func() string {
			// A new file with the bit, in a folder of a group that its maker is not in.
			with(os.Mkdir("d", 0o755), os.Chown("d", 1000, 77), unix.Chmod("d", 0o2775))
			return user(func() string {
				f, err := unix.Open("d/f", unix.O_CREAT|unix.O_WRONLY, 0o2775)
				_ = unix.Close(f)
				return seen(err, mode("d/f"), owner("d/f"))
			})
		}},
		{"sticky.folder", func() string {
			with(os.Mkdir("d", 0o755), unix.Chmod("d", 0o1777), write("d/root", ""))
			return seen(user(func() string {
				return seen(write("d/own", ""), unix.Unlink("d/root"), unix.Rename("d/root", "d/x"), unix.Rename("d/own", "d/root"))
			}), as(1001, 1001, nil, func() string { return seen(unix.Unlink("d/own")) }),
				user(func() string { return seen(unix.Unlink("d/own")) }))
		}},
		{"umask", func() string {
			old := unix.Umask(0o27)
			defer unix.Umask(old)
			f, err := unix.Open("f", unix.O_CREAT|unix.O_WRONLY, 0o666)
			_ = unix.Close(f)
			return seen(err, mode("f"), unix.Mkdir("d", 0o777), mode("d"), unix.Mkfifo("p", 0o666), mode("p"))
		}},
	}
}

// writeAt writes one byte.
func writeAt(name string) error {
	f, err := unix.Open(name, unix.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(f)
	_, err = unix.Pwrite(f, []byte("z"), 0)
	return err
}

func ownerCases() []check {
	return []check{
		{"chown.any", func() string {
			with(write("f", ""), os.Symlink("f", "s"))
			return seen(unix.Chown("f", 1<<32-2, 1<<31), owner("f"), unix.Chown("f", -1, 7), owner("f"),
				unix.Chown("f", 8, -1), owner("f"), unix.Lchown("s", 9, 9), owner("s"), owner("f"))
		}},
		{"chown.denied", func() string {
			with(write("f", ""), write("own", ""), os.Chown("own", 1000, 1000))
			return as(1000, 1000, []uint32{60}, func() string {
				return seen(unix.Chown("f", 1000, -1), unix.Chown("own", 1001, -1), unix.Chown("own", -1, 61),
					unix.Chown("own", -1, 60), owner("own"))
			})
		}},
		{"chown.descriptor", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			return seen(unix.Fchown(fd(f), 3, 4), owner("f"), unix.Fchownat(fd(f), "", 5, 6, unix.AT_EMPTY_PATH), owner("f"))
		}},
		{"create.owner", func() string {
			with(unix.Chmod(".", 0o777))
			made := as(1234, 5678, []uint32{9}, func() string {
				return seen(write("f", ""), unix.Mkdir("d", 0o755), os.Symlink("x", "s"),
					unix.Mkfifo("p", 0o644), unix.Mknod("n", unix.S_IFSOCK|0o644, 0))
			})
			return seen(made, owner("f"), owner("d"), owner("s"), owner("p"), owner("n"))
		}},
		{"groups.read", func() string {
			with(write("f", "x"), os.Chown("f", 0, 70), os.Chmod("f", 0o040))
			return seen(user(func() string { return text("f") }), as(1000, 1000, []uint32{69, 70}, func() string { return text("f") }))
		}},
		{"groups.create", func() string {
			// A volume of a group, as fsGroup makes it: who is in the group only by its further
			// groups makes files there.
			with(os.Mkdir("d", 0o755), os.Chown("d", 0, 70), unix.Chmod("d", 0o2775))
			return seen(as(1000, 1000, []uint32{69, 70}, func() string {
				return seen(write("d/f", "x"), unix.Mkdir("d/d", 0o755), os.Symlink("x", "d/s"),
					os.Link("d/f", "d/l"), unix.Mkfifo("d/p", 0o644), unix.Rename("d/f", "d/g"), unix.Unlink("d/g"))
			}), user(func() string { return seen(write("d/other", "")) }))
		}},
		{"groups.forty", func() string {
			with(write("f", "x"), os.Chown("f", 0, 139), os.Chmod("f", 0o040))
			var groups []uint32
			for g := range uint32(40) {
				groups = append(groups, 100+g)
			}
			return as(1000, 1000, groups, func() string { return text("f") })
		}},
	}
}

func timeCases() []check {
	const old = 1e9 // seconds: 2001
	set := func(name string, sec, nsec int64) error {
		t := unix.Timespec{Sec: sec, Nsec: nsec}
		return unix.UtimesNanoAt(unix.AT_FDCWD, name, []unix.Timespec{t, t}, unix.AT_SYMLINK_NOFOLLOW)
	}
	changed := func(name string) bool { return lstat(name).Mtim.Sec != old }
	return []check{
		{"utimens.nanoseconds", func() string {
			with(write("f", ""), os.Symlink("f", "s"))
			err := unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{{Sec: old, Nsec: 123456789}, {Sec: old + 1, Nsec: 1}}, 0)
			st := lstat("f")
			lerr := set("s", old+2, 5)
			l := lstat("s")
			return seen(err, st.Atim.Sec, st.Atim.Nsec, st.Mtim.Sec, st.Mtim.Nsec, lerr, l.Mtim.Sec, l.Mtim.Nsec, lstat("f").Mtim.Sec)
		}},
		{"utimens.range", func() string {
			with(write("f", ""))
			words := []any{}
			for _, sec := range []int64{-1, 0, 1 << 31, 1 << 32} {
				words = append(words, set("f", sec, 0), lstat("f").Mtim.Sec == sec)
			}
			return seen(words...)
		}},
		{"utimens.omit-now", func() string {
			with(write("f", ""), set("f", old, 7))
			err := unix.UtimesNanoAt(unix.AT_FDCWD, "f", []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}, 0)
			st := lstat("f")
			return seen(err, st.Atim.Nsec, time.Since(moment(st.Mtim)).Abs() < time.Minute)
		}},
		{"utimens.denied", func() string {
			with(write("f", ""), unix.Chmod("f", 0o666), write("closed", ""))
			return user(func() string {
				now := []unix.Timespec{{Nsec: unix.UTIME_NOW}, {Nsec: unix.UTIME_NOW}}
				return seen(set("f", old, 0), unix.UtimesNanoAt(unix.AT_FDCWD, "f", now, 0),
					unix.UtimesNanoAt(unix.AT_FDCWD, "closed", now, 0))
			})
		}},
		{"times.follow", func() string {
			with(os.Mkdir("d", 0o755), write("d/f", "x"), set("d", old, 0), set("d/f", old, 0))
			f := file("d/f", unix.O_WRONLY)
			_, err := f.WriteString("y")
			_ = f.Close()
			words := []any{err, changed("d/f"), changed("d"), write("d/new", ""), changed("d")}
			with(set("d", old, 0), set("d/f", old, 0))
			return seen(append(words, unix.Chmod("d/f", 0o600), changed("d/f"), unix.Unlink("d/new"),
				changed("d"), unix.Truncate("d/f", 0), changed("d/f"))...)
		}},
		{"times.ctime", func() string {
			with(write("f", ""))
			before := moment(lstat("f").Ctim)
			for range 1000 { // the clock of file systems ticks some hundred times a second
				with(unix.Chmod("f", 0o600), unix.Chmod("f", 0o644))
				if moment(lstat("f").Ctim).After(before) {
					return "moves"
				}
			}
			return "stands"
		}},
	}
}

func moment(t unix.Timespec) time.Time { return time.Unix(t.Unix()) }
