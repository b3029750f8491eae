// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// asUser does something with a file as a user without capabilities over files, or as root: args are
// what, the file and the user's id.
func asUser(args []string) (string, error) {
	uid, err := strconv.Atoi(args[2])
	if err != nil {
		return "", err
	}
	path := filepath.Join(mountPoint, args[1])
	// The id, and with it the capabilities over files, is the thread's alone.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if _, err := unix.SetfsuidRetUid(uid); err != nil {
		return "", err
	}
	defer unix.SetfsuidRetUid(0) //nolint:errcheck // it reports the old id
	switch args[0] {
	case "new":
		return "made", createSmall(path)
	case "append":
		return "written", appendSmall(path)
	}
	return "", fmt.Errorf("what is %q?", args[0])
}

// folder makes a folder and tells the attributes of the one that it is in, which the kernel has
// just asked for.
func folder(path string) (string, error) {
	path = filepath.Join(mountPoint, path)
	var st unix.Stat_t
	err := errors.Join(unix.Stat(filepath.Dir(path), &st), unix.Mkdir(path, 0o755), unix.Stat(filepath.Dir(path), &st))
	return fmt.Sprintf("%o %d %d", st.Mode&0o7777, st.Nlink, st.Mtim.Nano()), err
}
