// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const changes = unix.IN_MODIFY | unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_TO | unix.IN_MOVED_FROM

// follow prints what is in a folder, or a file, and again whenever inotify tells of a change: what
// a tool does that builds what somebody edits. With a file of the folder it opens that alone, and
// lists nothing, which would ask the file server for all names anew. It never ends by itself.
func follow(name, file string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	look := func() (string, error) {
		err := watchAll(fd, name) // before it reads: what changes later is told
		return contents(name), err
	}
	if file != "" {
		look = func() (string, error) {
			data, err := os.ReadFile(filepath.Join(name, file))
			return file + "=" + string(data), err
		}
		_, err = unix.InotifyAddWatch(fd, name, changes)
	}
	for buf := make([]byte, 1<<16); err == nil; _, err = unix.Read(fd, buf) {
		text, err := look()
		if err != nil {
			return err
		}
		fmt.Println(text)
	}
	return err
}

// watchAll watches a folder and those below it; what is watched already stays so.
func watchAll(fd int, name string) error {
	return filepath.WalkDir(name, func(at string, e fs.DirEntry, err error) error {
		if err == nil && (e.IsDir() || at == name) {
			_, err = unix.InotifyAddWatch(fd, at, changes)
		}
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	})
}

// contents are the files with their texts, in one line.
func contents(name string) string {
	var words []string
	_ = filepath.WalkDir(name, func(at string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return nil //nolint:nilerr // gone meanwhile
		}
		data, _ := os.ReadFile(at)
		words = append(words, strings.TrimPrefix(at, name+"/")+"="+string(data))
		return nil
	})
	return strings.Join(words, " ")
}
