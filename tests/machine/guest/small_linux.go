// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// smallFiles does one thing with many files of a folder, as a program does that makes no system
// call in vain: args are what, the folder and the number of files.
func smallFiles(args []string) (string, error) {
	one, known := map[string]func(path string) error{
		"stat": statSmall, "read": readSmall, "write": writeSmall, "create": createSmall, "append": appendSmall,
		"unlink": unix.Unlink, "missing": missing,
	}[args[0]]
	if !known {
		return "", fmt.Errorf("what is %q?", args[0])
	}
	files, err := strconv.Atoi(args[2])
	if err != nil {
		return "", err
	}
	for i := range files {
		if err := one(filepath.Join(mountPoint, args[1], strconv.Itoa(i))); err != nil {
			return "", fmt.Errorf("%s %d: %w", args[0], i, err)
		}
	}
	return fmt.Sprintf("%d done", files), nil
}

// walk reads what a folder lists. It says how long that took: what was listed is known for a
// second.
func walk(folder string) (string, error) {
	start := time.Now()
	d, err := os.Open(filepath.Join(mountPoint, folder))
	if err != nil {
		return "", err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return "", err
	}
	for _, name := range names {
		if err := readSmall(filepath.Join(d.Name(), name)); err != nil {
			return "", fmt.Errorf("read %s: %w", name, err)
		}
	}
	return fmt.Sprintf("%d done in %d ms", len(names), time.Since(start).Milliseconds()), nil
}

func statSmall(path string) error {
	var st unix.Stat_t
	return unix.Lstat(path, &st)
}

// missing looks for a name that is not there.
func missing(path string) error {
	if err := statSmall(path + ".none"); !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("lstat: %w", err)
	}
	return nil
}

// readSmall reads to the end: cat and cp do an fstat first.
func readSmall(path string) error {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	b := make([]byte, 4096)
	for n := 1; n > 0 && err == nil; {
		n, err = unix.Read(fd, b)
	}
	return errors.Join(err, unix.Close(fd))
}

func writeSmall(path string) error {
	return writeTo(path, unix.O_CREAT|unix.O_TRUNC)
}

// createSmall wants the file to be new, as tar, git and cp do.
func createSmall(path string) error {
	return writeTo(path, unix.O_CREAT|unix.O_EXCL)
}

func appendSmall(path string) error {
	return writeTo(path, unix.O_APPEND)
}

func writeTo(path string, flags int) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC|flags, 0o644)
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte("small"))
	return errors.Join(err, unix.Close(fd))
}
