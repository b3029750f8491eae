// SPDX-License-Identifier: Apache-2.0

// Command attacker stands for a virtiofsd that its guest has taken over. Like the C server it opens
// its folder and two folders of /proc first. Then it reads attacks, one a line, with tabs between
// its name and its arguments, and says how each went. It ends when there are no more, or after an
// attack that may have made another process of it.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// levels is deeper than any of the descriptors' folders.
const levels = 16

// attacks are by name; nil means success. Arguments are paths, pids and addresses.
var attacks = map[string]func(held []int, args []string) error{
	"dotdot": dotDot,
	"name":   byName,
	"chroot": chroot,
	"open":   func(_ []int, args []string) error { return open(args[0], unix.O_RDONLY) },
	"write":  func(_ []int, args []string) error { return open(args[0], unix.O_WRONLY) },
	"device": device,
	"link":   func(_ []int, args []string) error { return unix.Link(args[0], args[1]) },
	"swap": func(_ []int, args []string) error {
		return unix.Renameat2(unix.AT_FDCWD, args[0], unix.AT_FDCWD, args[1], unix.RENAME_EXCHANGE)
	},
	"copy":    copyRange,
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

// final tells an attack that may leave its process another one: the process makes no more.
func final(name string) bool {
	return slices.Contains([]string{"chroot", "mountns", "mount", "remount", "setns", "ptrace", "userns"}, name)
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
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		words := strings.Split(lines.Text(), "\t")
		attack, ok := attacks[words[0]]
		if !ok {
			fmt.Println("no attack", words[0])
			os.Exit(2)
		}
		if err := attack(held, words[1:]); err != nil {
			fmt.Println("denied:", strings.ReplaceAll(err.Error(), "\n", "; "))
		} else {
			fmt.Println("succeeded")
		}
		if final(words[0]) {
			return
		}
	}
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
	return openAt(unix.AT_FDCWD, name, flags)
}

func openAt(folder int, name string, flags int) error {
	fd, err := unix.Openat(folder, name, flags, 0o600)
	if err != nil {
		return err
	}
	if flags == unix.O_RDONLY {
		_, err = unix.Read(fd, make([]byte, 1))
	}
	return errors.Join(err, unix.Close(fd))
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
			err := openAt(fd, strings.Repeat("../", level)+strings.TrimPrefix(name, "/"), flags)
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

// byName does what a server would do that did not look at the names of its guest: an operation, in
// a folder, on a name.
func byName(_ []int, args []string) error {
	folder, err := unix.Open(args[1], unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(folder) }()
	name := args[2]
	switch args[0] {
	case "lookup":
		return openAt(folder, name, unix.O_RDONLY)
	case "create":
		return openAt(folder, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL)
	case "mkdir":
		return unix.Mkdirat(folder, name, 0o700)
	case "mknod":
		return unix.Mknodat(folder, name, unix.S_IFREG|0o600, 0)
	case "symlink":
		return unix.Symlinkat("x", folder, name)
	case "unlink":
		return unix.Unlinkat(folder, name, 0)
	}
	return fmt.Errorf("no operation %q", args[0])
}

// copyRange writes to a file by way of a descriptor that is for reading, and of one that is for
// writing.
func copyRange(_ []int, args []string) error {
	from, err := unix.Open(args[0], unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(from) }()
	var errs []error
	for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY} {
		to, err := unix.Open(args[1], flags, 0)
		if err == nil {
			_, err = unix.CopyFileRange(from, nil, to, nil, 2, 0)
			_ = unix.Close(to)
		}
		if err == nil {
			return nil
		}
		errs = append(errs, err)
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
