// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strconv"

	"golang.org/x/sys/unix"
)

// onDescriptor is what is done with a file that comes as a descriptor: a word, and for some what
// they take. Without a word it is read.
func onDescriptor(a []string) func(fd int) error {
	if len(a) == 0 {
		return readSome
	}
	again := func(fd, flags int) error {
		return withFile("/proc/self/fd/"+strconv.Itoa(fd), flags, nothing)
	}
	do, found := map[string]func(fd int) error{
		"write":    writeSome,
		"map":      mapShared,
		"map-exec": mapExec,
		"private":  mapPrivate,
		"open":     func(fd int) error { return again(fd, unix.O_RDWR) },
		"append":   func(fd int) error { return again(fd, unix.O_WRONLY|unix.O_APPEND) },
		"lock":     lock,
		"truncate": func(fd int) error { return step("ftruncate", unix.Ftruncate(fd, 4096)) },
		"grow":     func(fd int) error { return step("ftruncate", unix.Ftruncate(fd, 1<<40)) },
		"hole": func(fd int) error {
			return step("fallocate", unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096))
		},
		"mode":  func(fd int) error { return step("fchmod", unix.Fchmod(fd, 0o777)) },
		"times": func(fd int) error { return step("futimes", unix.Futimes(fd, make([]unix.Timeval, 2))) },
		"label": func(fd int) error { return step("fsetxattr", unix.Fsetxattr(fd, "security.selinux", []byte(a[1]), 0)) },
	}[a[0]]
	if !found {
		return func(int) error { return fmt.Errorf("%s is nothing to do with a descriptor", a[0]) }
	}
	return do
}

func lock(fd int) error { return step("flock", unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)) }

// mapPrivate maps a page as QEMU maps memory copy-on-write, and writes to it.
func mapPrivate(fd int) error {
	data, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE)
	if err != nil {
		return step("mmap", err)
	}
	data[0]++
	return unix.Munmap(data)
}
