// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// seen writes down what a case saw: names of errors, "ok" for none, anything else as it prints.
func seen(parts ...any) string {
	words := make([]string, len(parts))
	for i, p := range parts {
		switch v := p.(type) {
		case nil:
			words[i] = "ok"
		case error:
			words[i] = errorName(v)
		default:
			words[i] = fmt.Sprint(v)
		}
	}
	return strings.Join(words, " ")
}

func errorName(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return unix.ErrnoName(errno)
	}
	if errors.Is(err, io.EOF) {
		return "EOF"
	}
	return err.Error()
}

// write makes or overwrites a file.
func write(name, text string) error { return os.WriteFile(name, []byte(text), 0o644) }

// text gives a file's bytes, or the error's name.
func text(name string) string {
	data, err := os.ReadFile(name)
	if err != nil {
		return errorName(err)
	}
	return string(data)
}

// open opens and closes again.
func open(name string, flags int) error {
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// file opens a file that the case needs.
func file(name string, flags int) *os.File {
	fd, err := unix.Open(name, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		panic(fmt.Sprintf("open %s: %s", name, errorName(err)))
	}
	return os.NewFile(uintptr(fd), name)
}

func fd(f *os.File) int { return int(f.Fd()) }

func lstat(name string) (st unix.Stat_t) {
	if err := unix.Lstat(name, &st); err != nil {
		panic(fmt.Sprintf("lstat %s: %s", name, errorName(err)))
	}
	return st
}

// mode gives the permission bits, in octal.
func mode(name string) string { return fmt.Sprintf("%o", lstat(name).Mode&0o7777) }

func owner(name string) string {
	st := lstat(name)
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func sameInode(a, b string) bool {
	x, y := lstat(a), lstat(b)
	return x.Ino == y.Ino && x.Dev == y.Dev
}

// errs gives the first error.
func errs(list ...error) error {
	for _, err := range list {
		if err != nil {
			return err
		}
	}
	return nil
}

// with makes files that the case needs, or gives up.
func with(list ...error) {
	if err := errs(list...); err != nil {
		panic("prepare: " + errorName(err))
	}
}

func slicePointer(s []uint32) uintptr {
	if len(s) == 0 {
		return 0
	}
	return uintptr(unsafe.Pointer(&s[0]))
}

// second runs this program as the second process of a case, and gives what it says.
func second(args ...string) string {
	return secondOf(command("/proc/self/exe", append([]string{"helper"}, args...)...))
}

// command prepares a program that ends with the case.
func command(name string, args ...string) *exec.Cmd {
	return exec.CommandContext(context.Background(), name, args...)
}

func secondOf(cmd *exec.Cmd) string {
	out, err := cmd.Output()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
			return unix.SignalName(status.Signal())
		}
		return fmt.Sprintf("exit %d", exit.ExitCode())
	}
	if err != nil {
		return errorName(err)
	}
	return strings.TrimSpace(string(out))
}

// help is what the second process does.
func help(what string, args []string) string {
	switch what {
	case "user":
		return whoami()
	case "wait":
		_, err := io.Copy(io.Discard, os.Stdin)
		return seen(err)
	case "lock", "lock-wait":
		return tryLock(what == "lock-wait", args)
	case "lock-hold":
		return holdLock(args)
	case "map":
		return mapAndStore(args[0], args[1])
	case "map-follow":
		return mapAndFollow(args[0], args[1])
	case "read-server":
		return serveReads(args[0])
	case "replace-and-ask":
		return replaceAndAsk(args[0])
	case "fault":
		return fault(args[0])
	}
	return "unknown helper"
}
