// SPDX-License-Identifier: Apache-2.0

package process

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openNull gives a device like /dev/null in a file system of its own, with that label; empty for
// none. It takes the place of streams that nobody wants. A container's process would else hold the
// host's /dev/null: crun 1.8 gives it to the container's user, which SELinux denies and crun takes
// for fatal, and a process without MAC could change its mode. The file system has no name, and goes
// with the last who holds the file.
func openNull(label string) (*os.File, error) {
	fs, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's null device: fsopen tmpfs: %w", err)
	}
	defer unix.Close(fs)
	options := [][2]string{{"source", "cloister"}, {"nr_inodes", "2"}, {"nr_blocks", "1"}, {"mode", "0755"}}
	if label != "" {
		options = append(options, [2]string{"context", label})
	}
	for _, o := range options {
		if err := unix.FsconfigSetString(fs, o[0], o[1]); err != nil {
			return nil, fmt.Errorf("the sandbox's null device: tmpfs %s=%s: %w", o[0], o[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return nil, fmt.Errorf("the sandbox's null device: make a tmpfs: %w", err)
	}
	top, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's null device: mount a tmpfs: %w", err)
	}
	defer unix.Close(top)
	if err := unix.Mknodat(top, "null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		return nil, fmt.Errorf("the sandbox's null device: %w", err)
	}
	fd, err := unix.Openat(top, "null", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's null device: %w", err)
	}
	f := os.NewFile(uintptr(fd), "null device")
	if err := f.Chmod(0o666); err != nil { // the umask
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}
