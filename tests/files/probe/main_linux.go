// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// check is one case. It runs in an empty working folder, which is root's, mode 0755.
type check struct {
	name string
	run  func() string
}

func all() []check {
	return slices.Concat(openCases(), accessCases(), folderCases(), nameCases(), renameCases(),
		renameFlagCases(), linkCases(), modeCases(), ownerCases(), timeCases(),
		sizeCases(), spaceCases(), xattrCases(), aclCases(), execCases(), nodeCases(), memoryCases(),
		mapEdgeCases(), lockCases(), watchCases())
}

const usage = "usage: probe FOLDER [PREFIX...] | probe full FOLDER [PREFIX...] | probe user | probe dial SOCKET | probe " +
	"listen SOCKET | probe watch FOLDER [FILE]"

func main() {
	args := os.Args[1:]
	switch {
	case len(args) > 1 && args[0] == "helper":
		fmt.Println(help(args[1], args[2:]))
	case len(args) > 0 && args[0] == "user": // a script's own name may come behind it
		fmt.Println(whoami())
	case len(args) == 2 && args[0] == "dial":
		with(dial(args[1]))
	case len(args) == 2 && args[0] == "listen":
		with(echo(args[1]))
	case len(args) == 2 && args[0] == "names":
		list, err := os.ReadDir(args[1])
		for _, e := range list {
			fmt.Println(e.Name())
		}
		with(err)
	case len(args) > 1 && args[0] == "watch":
		with(follow(args[1], strings.Join(args[2:], "")))
	case len(args) > 1 && args[0] == "full":
		runAll(args[1], chosen(fullCases(), args[2:]))
	case len(args) > 0 && filepath.IsAbs(args[0]):
		runAll(args[0], chosen(all(), args[1:]))
	default:
		fmt.Fprintln(os.Stderr, usage)
		os.Exit(2)
	}
}

// chosen are the cases whose names begin so; no prefix chooses all.
func chosen(cases []check, prefixes []string) []check {
	if len(prefixes) == 0 {
		return cases
	}
	return slices.DeleteFunc(cases, func(c check) bool {
		return !slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(c.name, p) })
	})
}

// runAll prints each case's result as it comes. A case's folder is taken away: what it filled is
// free for the next.
func runAll(folder string, cases []check) {
	syscall.Umask(0o22)
	with(os.MkdirAll(folder, 0o755))
	for i, c := range cases {
		dir := filepath.Join(folder, fmt.Sprintf("case-%d", i))
		result := runIn(dir, c.run)
		fmt.Printf("%s\t%s\n", c.name, result)
		if err := os.RemoveAll(dir); err != nil {
			fmt.Printf("%s.removed\t%s\n", c.name, seen(err))
		}
	}
}

// makeFolder waits, at most a while, for the space of the case before: a file server gives a
// removed file's back when the kernel has told it that nobody has the file open, which the one who
// removed it does not wait for.
func makeFolder(dir string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for range 1000 {
		if !crowded(filepath.Dir(dir)) {
			break
		}
		<-tick.C
	}
	return os.Mkdir(dir, 0o755)
}

// crowded tells of a small file system, which cases fill, that half of it is in use.
func crowded(dir string) bool {
	var st unix.Statfs_t
	return unix.Statfs(dir, &st) == nil && st.Blocks*uint64(st.Bsize) < 64<<20 && st.Bavail < st.Blocks/2
}

func runIn(dir string, run func() string) (result string) {
	if err := makeFolder(dir); err != nil {
		return "no folder: " + seen(err)
	}
	if err := os.Chdir(dir); err != nil {
		return "no folder: " + seen(err)
	}
	defer func() { _ = os.Chdir("/") }()
	defer func() {
		if r := recover(); r != nil {
			result = fmt.Sprint("panic: ", r)
		}
	}()
	return run()
}

// as runs f with another user's identity and no capabilities, and gives what it gives. Identities
// are a thread's own, so the thread is never unlocked and ends with the goroutine.
func as(uid, gid int, groups []uint32, f func() string) string {
	result := make(chan string)
	go func() {
		runtime.LockOSThread()
		if err := become(uid, gid, groups); err != nil {
			result <- "become: " + seen(err)
			return
		}
		result <- f()
	}()
	return <-result
}

// user runs f as a user who owns nothing.
func user(f func() string) string { return as(1000, 1000, nil, f) }

func become(uid, gid int, groups []uint32) error {
	if _, _, e := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), slicePointer(groups), 0); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid)); e != 0 {
		return e
	}
	if _, _, e := unix.RawSyscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)); e != 0 {
		return e
	}
	return nil
}
