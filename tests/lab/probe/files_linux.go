// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

func fileOperations() map[string]operation {
	return map[string]operation{
		"open":           func(a []string) error { return withFile(a[0], unix.O_RDONLY, readSome) },
		"open-rw":        func(a []string) error { return withFile(a[0], unix.O_RDWR, writeSome) },
		"append":         func(a []string) error { return withFile(a[0], unix.O_WRONLY|unix.O_APPEND, writeSome) },
		"openonly":       func(a []string) error { return withFile(a[0], unix.O_RDONLY|unix.O_NONBLOCK, nothing) },
		"openonly-write": func(a []string) error { return withFile(a[0], unix.O_WRONLY, nothing) },
		"list":           func(a []string) error { _, err := os.ReadDir(a[0]); return err },
		"create": func(a []string) error {
			return withFile(a[0], unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, nothing)
		},
		"mkdir":    func(a []string) error { return unix.Mkdir(a[0], 0o755) },
		"rmdir":    func(a []string) error { return unix.Rmdir(a[0]) },
		"unlink":   func(a []string) error { return unix.Unlink(a[0]) },
		"rename":   func(a []string) error { return unix.Rename(a[0], a[1]) },
		"link":     func(a []string) error { return unix.Link(a[0], a[1]) },
		"symlink":  func(a []string) error { return unix.Symlink(a[0], a[1]) },
		"readlink": func(a []string) error { _, err := os.Readlink(a[0]); return err },
		"chmod":    func(a []string) error { return unix.Chmod(a[0], 0o777) },
		"chown":    func(a []string) error { return unix.Lchown(a[0], 1, 1) },
		"truncate": func(a []string) error { return unix.Truncate(a[0], 1) },
		"stat": func(a []string) error {
			var s unix.Stat_t
			return unix.Stat(a[0], &s)
		},
		"mmap":       func(a []string) error { return withFile(a[0], unix.O_RDWR, mapShared) },
		"mmap-exec":  func(a []string) error { return withFile(a[0], unix.O_RDONLY, mapExec) },
		"exec":       func(a []string) error { return unix.Exec(a[0], a, nil) },
		"chroot":     func(a []string) error { return unix.Chroot(a[0]) },
		"mount":      func(a []string) error { return unix.Mount("none", a[0], "tmpfs", 0, "") },
		"mount-disk": func(a []string) error { return unix.Mount(a[0], a[1], "ext4", unix.MS_RDONLY, "") },
		"bind":       func(a []string) error { return unix.Mount(a[0], a[1], "", unix.MS_BIND, "") },
		"getcon":     func(a []string) error { _, err := os.ReadFile(a[0]); return err },
		"setcon":     func(a []string) error { return unix.Lsetxattr(a[0], "security.selinux", []byte(a[1]), 0) },
		"mknod":      mknod,
		"setcap":     setcap,
		"inherited":  inherited,
		"received":   received,
		"received-dir": func([]string) error {
			return receive(func(fd int) error {
				opened, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
				if err != nil {
					return step("openat", err)
				}
				_, err = unix.ReadDirent(opened, make([]byte, 4096))
				return err
			})
		},
		"received-append": func([]string) error {
			return receive(func(fd int) error { _, err := unix.Write(fd, []byte("x")); return err })
		},
		"received-map": func([]string) error { return receive(mapShared) },
		"received-tap": func([]string) error {
			return receive(func(fd int) error {
				_, err := unix.Write(fd, make([]byte, 64))
				return err
			})
		},
		"core": func([]string) error {
			limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
			return unix.Setrlimit(unix.RLIMIT_CORE, &limit)
		},
		"write-text": func(a []string) error {
			return withFile(a[0], unix.O_WRONLY, func(fd int) error { _, err := unix.Write(fd, []byte(a[1])); return err })
		},
	}
}

func nothing(int) error { return nil }

func withFile(path string, flags int, do func(int) error) error {
	fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return step("open", err)
	}
	return errors.Join(do(fd), unix.Close(fd))
}

func readSome(fd int) error {
	_, err := unix.Read(fd, make([]byte, 16))
	if errors.Is(err, unix.EISDIR) {
		return nil
	}
	return step("read", err)
}

func writeSome(fd int) error {
	_, err := unix.Write(fd, []byte("probe"))
	return step("write", err)
}

func mapShared(fd int) error {
	data, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return step("mmap", err)
	}
	return unix.Munmap(data)
}

func mapExec(fd int) error {
	data, err := unix.Mmap(fd, 0, 4096, unix.PROT_READ|unix.PROT_EXEC, unix.MAP_PRIVATE)
	if err != nil {
		return step("mmap", err)
	}
	return unix.Munmap(data)
}

// mknod makes a node: path, c or b, major, minor; "open" after it opens the node too.
func mknod(a []string) error {
	numbers := [2]uint64{}
	for i := range numbers {
		n, err := strconv.ParseUint(a[2+i], 10, 32)
		if err != nil {
			return err
		}
		numbers[i] = n
	}
	mode := uint32(unix.S_IFCHR)
	if a[1] == "b" {
		mode = unix.S_IFBLK
	}
	_ = unix.Unlink(a[0])
	if err := unix.Mknod(a[0], mode|0o600, int(unix.Mkdev(uint32(numbers[0]), uint32(numbers[1])))); err != nil {
		return step("mknod", err)
	}
	if len(a) > 4 {
		return withFile(a[0], unix.O_RDONLY|unix.O_NONBLOCK, nothing)
	}
	return nil
}

// setcap gives a file a capability, as a vfs_cap_data of version 2.
func setcap(a []string) error {
	data := []byte{0, 0, 0, 2, 0, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}
	return unix.Lsetxattr(a[0], "security.capability", data, 0)
}

// inherited reads from a descriptor that came with the program: the kernel puts /dev/null in the
// place of one that the domain may not have.
func inherited(a []string) error {
	link, err := os.Readlink("/proc/self/fd/3")
	if err != nil {
		return err
	}
	if link == "/dev/null" || strings.HasSuffix(link, "/null") {
		return fmt.Errorf("descriptor 3 became %s: %w", link, unix.EACCES)
	}
	return onDescriptor(a)(3)
}

func received(a []string) error { return receive(onDescriptor(a)) }

// receive takes a descriptor from the socket that is descriptor 3. A message without it is what a
// refusal looks like.
func receive(do func(int) error) error {
	space := make([]byte, unix.CmsgSpace(4))
	_, n, flags, _, err := unix.Recvmsg(3, make([]byte, 1), space, 0)
	if err != nil {
		return step("recvmsg", err)
	}
	messages, err := unix.ParseSocketControlMessage(space[:n])
	if err != nil || len(messages) == 0 {
		return fmt.Errorf("recvmsg: descriptor left out, flags %#x: %w", flags, unix.EACCES)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil || len(fds) == 0 {
		return fmt.Errorf("recvmsg: no descriptor: %w", unix.EACCES)
	}
	return do(fds[0])
}

// pointer hides the conversion from one place to the next.
func pointer(b []byte) uintptr { return uintptr(unsafe.Pointer(&b[0])) }
