// SPDX-License-Identifier: Apache-2.0

// Command attacker stands for a QEMU that its guest has taken over: it makes one attack on the host
// and says how it went. It waits for a line on its standard input first, as QEMU waits to be
// continued.
package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// attacks are by name. Each returns nil if it has succeeded. target is what the test has
// prepared: a pid, a path, an address.
var attacks = map[string]func(target string) error{
	"ptrace": func(target string) error { return call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, number(target), 0) },
	"pidfd_getfd": func(target string) error {
		fd, err := unix.PidfdOpen(int(number(target)), 0)
		if err != nil {
			return err
		}
		_, err = unix.PidfdGetfd(fd, 1, 0)
		return err
	},
	"process_vm_readv": func(target string) error {
		var pid int
		var address uintptr
		if _, err := fmt.Sscanf(target, "%d %x", &pid, &address); err != nil {
			return err
		}
		local := make([]byte, 8)
		_, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &local[0], Len: 8}}, []unix.RemoteIovec{{Base: address, Len: 8}}, 0)
		return err
	},
	"kill":     func(target string) error { return unix.Kill(int(number(target)), unix.SIGKILL) },
	"tgkill":   func(target string) error { return unix.Tgkill(int(number(target)), int(number(target)), unix.SIGKILL) },
	"priority": func(target string) error { return unix.Setpriority(unix.PRIO_PROCESS, int(number(target)), 10) },
	"prlimit": func(target string) error {
		return unix.Prlimit(int(number(target)), unix.RLIMIT_NOFILE, nil, &unix.Rlimit{})
	},
	"read":       func(target string) error { return open(target, unix.O_RDONLY) },
	"write":      func(target string) error { return open(target, unix.O_WRONLY) },
	"list":       list,
	"create":     func(target string) error { return open(target, unix.O_WRONLY|unix.O_CREAT) },
	"fill":       fill,
	"mknod":      func(target string) error { return unix.Mknod(target, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))) },
	"exec":       func(target string) error { return syscall.Exec(target, []string{target, "-c", "exit 0"}, nil) },
	"unix":       func(target string) error { return connect("unix", target) },
	"tcp":        func(target string) error { return connect("tcp", target) },
	"raw socket": func(string) error { return socket(unix.AF_PACKET, unix.SOCK_RAW) },
	"netlink":    func(string) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW) },
	"vsock":      func(string) error { return socket(unix.AF_VSOCK, unix.SOCK_STREAM) },
	"fork":       forks,
	"fsopen":     func(string) error { _, err := unix.Fsopen("tmpfs", 0); return err },
	"mount":      func(target string) error { return unix.Mount("none", target, "tmpfs", 0, "") },
	"open_tree":  func(string) error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE); return err },
	"chroot":     func(string) error { return unix.Chroot("/") },
	"unshare":    func(string) error { return unix.Unshare(unix.CLONE_NEWNET) },
	"user namespace": func(string) error {
		return call(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0)
	},
	"setns": func(target string) error {
		fd, err := unix.PidfdOpen(int(number(target)), 0)
		if err != nil {
			return err
		}
		return unix.Setns(fd, unix.CLONE_NEWUTS)
	},
	"setuid": func(string) error { return call(unix.SYS_SETUID, 0, 0, 0) },
	"keyctl": func(string) error {
		_, err := unix.AddKey("user", "attack", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
		return err
	},
	"bpf": bpf,
	"io_uring": func(string) error {
		var p [120]byte
		return call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0)
	},
	"userfaultfd": func(string) error { return call(unix.SYS_USERFAULTFD, 0, 0, 0) },
	"by handle": func(target string) error {
		handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, target, 0)
		if err != nil {
			return err
		}
		fd, err := unix.Open(target, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		_, err = unix.OpenByHandleAt(fd, handle, unix.O_RDONLY)
		return err
	},
}

func main() {
	name, target := os.Args[1], os.Args[2]
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		fmt.Println("not started:", err)
		os.Exit(2)
	}
	attack, ok := attacks[name]
	if !ok {
		fmt.Println("no such attack")
		os.Exit(2)
	}
	if err := attack(target); err != nil {
		fmt.Println("denied:", err)
		return
	}
	fmt.Println("succeeded")
}

func call(number, a, b, c uintptr) error {
	pid, _, errno := unix.RawSyscall6(number, a, b, c, 0, 0, 0)
	switch {
	case errno != 0:
		return errno
	case number == unix.SYS_CLONE && pid == 0:
		_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	}
	return nil
}

func number(target string) uintptr {
	n, err := strconv.Atoi(target)
	if err != nil {
		return ^uintptr(0)
	}
	return uintptr(n)
}

func open(name string, flags int) error {
	fd, err := unix.Open(name, flags, 0o600)
	if err != nil {
		return err
	}
	if flags == unix.O_RDONLY {
		_, err = unix.Read(fd, make([]byte, 1))
	}
	return err
}

func list(name string) error {
	entries, err := os.ReadDir(name)
	if err == nil && len(entries) == 0 {
		err = errors.New("it is empty")
	}
	return err
}

// fill writes more than a sandbox's own file system holds.
func fill(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 16<<20))
	return err
}

func socket(domain, kind int) error {
	_, err := unix.Socket(domain, kind, 0)
	return err
}

func connect(network, address string) error {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), network, address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// forks makes 200 processes at once. They end when this one has.
func forks(string) error {
	var ends [2]int
	if err := unix.Pipe(ends[:]); err != nil {
		return err
	}
	for range 200 {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		if pid == 0 {
			var b byte
			_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(ends[1]), 0, 0)
			_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(ends[0]), uintptr(unsafe.Pointer(&b)), 1)
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return nil
}

func bpf(string) error {
	var attr [72]byte
	*(*[4]uint32)(unsafe.Pointer(&attr)) = [4]uint32{2, 4, 4, 1} // an array of one element
	return call(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
}
