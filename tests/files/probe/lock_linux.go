// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// lock asks for a lock of kind F_RDLCK, F_WRLCK or F_UNLCK on bytes of f.
func lock(f *os.File, command int, kind int16, start, length int64) error {
	return unix.FcntlFlock(f.Fd(), command, &unix.Flock_t{Type: kind, Whence: io.SeekStart, Start: start, Len: length})
}

func lockCases() []check {
	return []check{
		{"flock.exclusive", func() string {
			a, b := file("f", unix.O_CREAT|unix.O_RDWR), file("f", unix.O_RDWR)
			defer b.Close()
			const other = unix.LOCK_EX | unix.LOCK_NB
			return seen(unix.Flock(fd(a), unix.LOCK_EX), unix.Flock(fd(b), other),
				second("lock", "flock", "f"), a.Close(), unix.Flock(fd(b), other))
		}},
		{"flock.shared", func() string {
			a, b := file("f", unix.O_CREAT|unix.O_RDWR), file("f", unix.O_RDONLY)
			defer a.Close()
			defer b.Close()
			return seen(unix.Flock(fd(a), unix.LOCK_SH), unix.Flock(fd(b), unix.LOCK_SH|unix.LOCK_NB),
				unix.Flock(fd(a), unix.LOCK_EX|unix.LOCK_NB),
				unix.Flock(fd(b), unix.LOCK_UN), unix.Flock(fd(a), unix.LOCK_EX|unix.LOCK_NB))
		}},
		{"posix.exclusive", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			return seen(lock(f, unix.F_SETLK, unix.F_WRLCK, 0, 10), second("lock", "posix", "f"),
				lock(f, unix.F_SETLK, unix.F_UNLCK, 0, 10), second("lock", "posix", "f"))
		}},
		{"posix.shared", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			return seen(lock(f, unix.F_SETLK, unix.F_RDLCK, 0, 10), second("lock", "posix-read", "f"), second("lock", "posix", "f"))
		}},
		{"posix.range", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			return seen(lock(f, unix.F_SETLK, unix.F_WRLCK, 100, 10), second("lock", "posix", "f"))
		}},
		{"posix.lost-at-close", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			err := lock(f, unix.F_SETLK, unix.F_WRLCK, 0, 10)
			return seen(err, open("f", 0), second("lock", "posix", "f"))
		}},
		{"posix.direction", func() string {
			with(write("f", ""))
			r, w := file("f", unix.O_RDONLY), file("f", unix.O_WRONLY)
			defer r.Close()
			defer w.Close()
			return seen(lock(r, unix.F_SETLK, unix.F_WRLCK, 0, 1), lock(w, unix.F_SETLK, unix.F_RDLCK, 0, 1))
		}},
		{"posix.waits", func() string {
			f := file("f", unix.O_CREAT|unix.O_RDWR)
			defer f.Close()
			with(lock(f, unix.F_SETLK, unix.F_WRLCK, 0, 10))
			cmd := command("/proc/self/exe", "helper", "lock-wait", "posix", "f")
			out, err := cmd.StdoutPipe()
			with(err, cmd.Start())
			uerr := lock(f, unix.F_SETLK, unix.F_UNLCK, 0, 10)
			data, rerr := io.ReadAll(out)
			return seen(uerr, rerr, string(data[:max(0, len(data)-1)]), cmd.Wait())
		}},
		{"ofd.exclusive", func() string {
			a, b := file("f", unix.O_CREAT|unix.O_RDWR), file("f", unix.O_RDWR)
			defer b.Close()
			return seen(lock(a, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 10),
				lock(b, unix.F_OFD_SETLK, unix.F_WRLCK, 5, 10), lock(b, unix.F_OFD_SETLK, unix.F_WRLCK, 10, 10),
				second("lock", "ofd", "f"), second("lock", "posix", "f"), a.Close(), second("lock", "ofd", "f"))
		}},
		{"lease", func() string {
			with(write("f", ""))
			f := file("f", unix.O_RDONLY)
			defer f.Close()
			_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
			return seen(err)
		}},
	}
}

// tryLock is the second process of a lock's case.
func tryLock(wait bool, args []string) string {
	f := file(args[1], unix.O_RDWR)
	defer f.Close()
	return lockOf(f, args[0], wait)
}

// lockOf asks for a lock of the kind flock, posix, posix-read or ofd.
func lockOf(f *os.File, kind string, wait bool) string {
	command := unix.F_SETLK
	if wait {
		command = unix.F_SETLKW
	}
	switch kind {
	case "flock":
		return seen(unix.Flock(fd(f), unix.LOCK_EX|unix.LOCK_NB))
	case "posix-read":
		return seen(lock(f, command, unix.F_RDLCK, 0, 10))
	case "ofd":
		return seen(lock(f, unix.F_OFD_SETLK, unix.F_WRLCK, 0, 10))
	}
	return seen(lock(f, command, unix.F_WRLCK, 0, 10))
}

// holdLock takes a lock as tryLock does, prints the result, and keeps the lock until it is killed.
func holdLock(args []string) string {
	f := file(args[1], unix.O_CREAT|unix.O_RDWR)
	defer f.Close()
	fmt.Println(lockOf(f, args[0], false))
	_ = unix.Pause()
	return "a signal has come"
}
