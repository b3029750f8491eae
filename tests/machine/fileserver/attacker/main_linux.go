// SPDX-License-Identifier: Apache-2.0

// Command attacker stands for a virtiofsd that its guest has taken over. Like the C server it opens
// its folder and two folders of /proc first; then it waits for a line on its standard input, makes
// one attack on the host and says how it went.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// levels is deeper than any of the descriptors' folders.
const levels = 16

// attacks are by name; nil means success. Arguments are paths, pids and addresses.
var attacks = map[string]func(held []int, args []string) error{
	"dotdot": dotDot,
	"chroot": chroot,
	"open":   func(_ []int, args []string) error { return open(args[0], unix.O_RDONLY) },
	"write":  func(_ []int, args []string) error { return open(args[0], unix.O_WRONLY) },
	"device": device,
	"link":   func(_ []int, args []string) error { return unix.Link(args[0], args[1]) },
	"swap": func(_ []int, args []string) error {
		return unix.Renameat2(unix.AT_FDCWD, args[0], unix.AT_FDCWD, args[1], unix.RENAME_EXCHANGE)
	},
	"userns":  userNamespace,
	"mountns": func([]int, []string) error { return unix.Unshare(unix.CLONE_NEWNS) },
	"mount":   func(_ []int, args []string) error { return unix.Mount("tmpfs", args[0], "tmpfs", 0, "") },
	"remount": func(_ []int, args []string) error {
		return unix.Mount("", args[0], "", unix.MS_REMOUNT|unix.MS_BIND, "")
	},
	"kill":   func(_ []int, args []string) error { return unix.Kill(number(args[0]), unix.SIGKILL) },
	"ptrace": func(_ []int, args []string) error { return unix.PtraceSeize(number(args[0])) },
	"setns": func(_ []int, args []string) error {
		fd, err := unix.PidfdOpen(number(args[0]), 0)
		if err != nil {
			return err
		}
		return unix.Setns(fd, unix.CLONE_NEWUTS)
	},
	"handle": func(_ []int, args []string) error {
		handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, args[0], 0)
		if err != nil {
			return err
		}
		fd, err := unix.Open(args[0], unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		_, err = unix.OpenByHandleAt(fd, handle, unix.O_RDONLY)
		return err
	},
	"connect": func(_ []int, args []string) error {
		conn, err := net.Dial(args[0], args[1])
		if err != nil {
			return err
		}
		return conn.Close()
	},
	"xattr": func(_ []int, args []string) error {
		return unix.Setxattr(args[0], "trusted.overlay.redirect", []byte("/etc"), 0)
	},
}

func main() {
	var held []int
	for _, name := range []string{".", "/proc/self/fd", "/proc/self/task"} {
		fd, err := unix.Open(name, unix.O_PATH, 0)
		if err != nil {
			fmt.Println("not started:", name, err)
			os.Exit(2)
		}
		held = append(held, fd)
	}
	fmt.Println("ready")
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		fmt.Println("not started:", err)
		os.Exit(2)
	}
	attack, ok := attacks[os.Args[1]]
	if !ok {
		fmt.Println("no such attack")
		os.Exit(2)
	}
	if err := attack(held, os.Args[2:]); err != nil {
		fmt.Println("denied:", err)
		return
	}
	fmt.Println("succeeded")
}

func number(text string) int {
	n, err := strconv.Atoi(text)
	if err != nil {
		return -1
	}
	return n
}

// open opens a file and reads a byte of it, or writes none.
func open(name string, flags int) error {
	fd, err := unix.Open(name, flags, 0)
	if err == nil && flags == unix.O_RDONLY {
		_, err = unix.Read(fd, make([]byte, 1))
	}
	return err
}

// userNamespace makes one by clone: this program has threads.
func userNamespace([]int, []string) error {
	pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	if pid == 0 {
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return nil
}

// dotDot looks for a file above every descriptor; the second argument says how it is opened.
func dotDot(held []int, args []string) error {
	flags := unix.O_RDONLY
	if args[1] == "write" {
		flags = unix.O_WRONLY
	}
	var errs []error
	for _, fd := range held {
		for level := range levels {
			name := filepath.Clean(args[0])
			_, err := unix.Openat(fd, strings.Repeat("../", level)+strings.TrimPrefix(name, "/"), flags, 0)
			if err == nil {
				return nil
			}
			if level == levels-1 {
				errs = append(errs, err)
			}
		}
	}
	return errors.Join(errs...)
}

// chroot leaves a chroot as root does: a second one below it, and then up from the folder that lies
// above it.
func chroot(_ []int, args []string) error {
	if err := unix.Mkdir(args[1], 0o700); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	if err := unix.Chroot(args[1]); err != nil {
		return err
	}
	for range levels {
		if err := unix.Chdir(".."); err != nil {
			return err
		}
	}
	if err := unix.Chroot("."); err != nil {
		return err
	}
	return open(args[0], unix.O_RDONLY)
}

// device makes a node of /dev/zero's and reads it.
func device(_ []int, args []string) error {
	err := unix.Mknod(args[0], unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return open(args[0], unix.O_RDONLY)
}
