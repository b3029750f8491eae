// SPDX-License-Identifier: Apache-2.0

package prove

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Replies of an attacker.
const (
	done   = "succeeded"
	denied = "denied: "
)

// final tells an attack that leaves its process another one: after a success it makes no more. The
// process is ended by the runner then: what it became must not decide about the next attack.
func final(name string) bool {
	return slices.Contains([]string{"exec", "chroot", "unshare", "user namespace", "setns", "setuid", "ptrace"}, name)
}

// attacks are by name. Each returns nil if it has succeeded. target is what the host has prepared:
// a pid, a path, an address. What an attack that succeeds leaves behind is the victim's, or
// runner.tidy takes it away.
//
// A user namespace is made by clone: the kernel refuses unshare for it to a process with threads,
// which Go's always is. setuid is the raw call: the library's changes all threads, and ends the
// program if one of them differs. chmod sets set-uid, which is what a captured server would want of
// a file of root's.
//
//nolint:gochecknoglobals // a table that nobody changes
var attacks = map[string]func(target string) error{
	"ptrace":            func(target string) error { return call(unix.SYS_PTRACE, unix.PTRACE_SEIZE, number(target), 0) },
	"pidfd_getfd":       stealFile,
	"process_vm_readv":  func(target string) error { return remoteMemory(target, unix.ProcessVMReadv) },
	"process_vm_writev": func(target string) error { return remoteMemory(target, unix.ProcessVMWritev) },
	"kill":              func(target string) error { return unix.Kill(int(number(target)), unix.SIGKILL) },
	"tgkill":            func(target string) error { return unix.Tgkill(int(number(target)), int(number(target)), unix.SIGKILL) },
	"priority":          func(target string) error { return unix.Setpriority(unix.PRIO_PROCESS, int(number(target)), 10) },
	"prlimit": func(target string) error {
		return unix.Prlimit(int(number(target)), unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
	},
	"setns": func(target string) error {
		fd, err := unix.PidfdOpen(int(number(target)), 0)
		if err != nil {
			return err
		}
		return unix.Setns(fd, unix.CLONE_NEWUTS)
	},

	"read":  func(target string) error { return open(target, unix.O_RDONLY) },
	"write": func(target string) error { return open(target, unix.O_WRONLY) },
	"list":  list,

	"read environ":        func(target string) error { return open(target, unix.O_RDONLY) },
	"list files":          list,
	"list root":           list,
	"open memory":         func(target string) error { return open(target, unix.O_WRONLY) },
	"write oom_score_adj": func(target string) error { return open(target, unix.O_WRONLY) },

	"create":        func(target string) error { return open(target, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW) },
	"fill":          fill,
	"mknod":         func(target string) error { return unix.Mknod(target, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 0))) },
	"make and open": makeAndOpen,
	"chmod":         func(target string) error { return unix.Chmod(target, 0o4755) },
	"link":          func(target string) error { return unix.Link(target, target+"-link") },
	"exec":          func(target string) error { return syscall.Exec(target, []string{target, "-c", "exit 0"}, nil) },
	"by handle": func(target string) error {
		handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, target, 0)
		if err != nil {
			return err
		}
		fd, err := unix.Open(target, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = unix.OpenByHandleAt(fd, handle, unix.O_RDONLY)
		return err
	},

	"unix":       func(target string) error { return connect("unix", target) },
	"tcp":        func(target string) error { return connect("tcp", target) },
	"raw socket": func(string) error { return socket(unix.AF_PACKET, unix.SOCK_RAW) },
	"netlink":    func(string) error { return socket(unix.AF_NETLINK, unix.SOCK_RAW) },
	"shared memory": func(target string) error {
		id, err := unix.SysvShmGet(int(number(target)), 1, 0)
		if err != nil {
			return err
		}
		at, err := unix.SysvShmAttach(id, 0, 0)
		if err != nil {
			return err
		}
		return unix.SysvShmDetach(at)
	},

	"fork":      forks,
	"fsopen":    func(string) error { return opensFileSystem("proc", "devtmpfs") },
	"mount":     func(target string) error { return unix.Mount("none", target, "tmpfs", 0, "") },
	"open_tree": func(string) error { _, err := unix.OpenTree(unix.AT_FDCWD, "/", unix.OPEN_TREE_CLONE); return err },
	"chroot":    func(string) error { return unix.Chroot("/") },
	// EBUSY: that is the root already, which is found out after the rights.
	"pivot_root": func(string) error { return past(unix.PivotRoot("/", "/"), unix.EBUSY, unix.EINVAL) },
	"unshare":    func(string) error { return unix.Unshare(unix.CLONE_NEWNET) },
	"user namespace": func(string) error {
		return call(unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD), 0, 0)
	},
	"setuid": func(string) error { return call(unix.SYS_SETUID, 0, 0, 0) },

	"keyctl": func(string) error {
		_, err := unix.AddKey("user", "attack", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
		return err
	},
	"bpf": bpf,
	"io_uring": func(string) error {
		var p [120]byte
		return call(unix.SYS_IO_URING_SETUP, 1, uintptr(unsafe.Pointer(&p)), 0) //nolint:gosec // a struct io_uring_params
	},
	"userfaultfd": func(string) error { return call(unix.SYS_USERFAULTFD, 0, 0, 0) },
	"perf":        perf,
	"kernel log":  func(string) error { _, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, make([]byte, 64)); return err },
	"ioperm":      func(string) error { return call(unix.SYS_IOPERM, 0x80, 1, 1) },
	// The file is not a module. The kernel finds that out after it has checked the rights.
	"finit_module": func(string) error {
		fd, err := unix.MemfdCreate("module", 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return past(unix.FinitModule(fd, "", 0), unix.ENOEXEC, unix.EINVAL)
	},
	"kexec_file_load": func(string) error {
		return past(call(unix.SYS_KEXEC_FILE_LOAD, ^uintptr(0), ^uintptr(0), 0), unix.EBADF, unix.ENOEXEC)
	},
}

// Attacker is the attacker's program. It reads attacks, one a line, with a tab before the target,
// and answers each with a line. It ends when there are no more, or when an attack has made another
// process of it. It is the whole of a process that may be confined to a few system calls, so it
// uses nothing but its two streams. A line that it does not know is an error of the runner's.
func Attacker(in io.Reader, out io.Writer) error {
	if _, err := fmt.Fprintln(out, done); err != nil { // it runs
		return err
	}
	lines := bufio.NewScanner(in)
	for lines.Scan() {
		name, target, _ := strings.Cut(lines.Text(), "\t")
		attack, ok := attacks[name]
		if !ok {
			return fmt.Errorf("no attack %q", name)
		}
		reply := done
		if err := attack(target); err != nil {
			reply = denied + err.Error()
		}
		if _, err := fmt.Fprintln(out, reply); err != nil {
			return err
		}
		if reply == done && final(name) {
			return nil
		}
	}
	return lines.Err()
}

// Victim is a program that is attacked: it says that it runs and waits for its end. in ends when
// whoever started it is gone, so that no victim outlives a killed run.
func Victim(in io.Reader, out io.Writer) error {
	if _, err := fmt.Fprintln(out, done); err != nil {
		return err
	}
	_, err := io.Copy(io.Discard, in)
	return err
}

// past takes an error that comes after the rights were checked for a success. Kernels check the
// rights of a call before its arguments as a rule: an argument that is wrong on purpose makes an
// attack that does nothing.
func past(err error, later ...error) error {
	for _, l := range later {
		if errors.Is(err, l) {
			return nil
		}
	}
	return err
}

// call makes a system call. A clone that succeeds returns twice, and the child must end without
// running any of Go's code: it has one thread of a program that has several.
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

// opensFileSystem succeeds with the first kind of file system of which it gets an instance.
func opensFileSystem(kinds ...string) (err error) {
	for _, kind := range kinds {
		var fd int
		if fd, err = unix.Fsopen(kind, 0); err == nil {
			return unix.Close(fd)
		}
	}
	return err
}

// number reads a pid or key. What is none becomes -1, which names no process.
func number(target string) uintptr {
	n, err := strconv.Atoi(target)
	if err != nil {
		return ^uintptr(0)
	}
	return uintptr(n)
}

// stealFile takes the standard output of a process.
func stealFile(target string) error {
	fd, err := unix.PidfdOpen(int(number(target)), 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	file, err := unix.PidfdGetfd(fd, 1, 0)
	if err != nil {
		return err
	}
	return unix.Close(file)
}

type remoteCall func(pid int, local []unix.Iovec, remote []unix.RemoteIovec, flags uint) (int, error)

// remoteMemory reads or writes a process's memory, at an address that the target has behind its
// pid. Eight bytes are written as zeroes where the victim keeps data: victims do nothing with it.
func remoteMemory(target string, do remoteCall) error {
	var pid int
	var address uintptr
	if _, err := fmt.Sscanf(target, "%d %x", &pid, &address); err != nil {
		return err
	}
	local := make([]byte, 8)
	_, err := do(pid, []unix.Iovec{{Base: &local[0], Len: 8}}, []unix.RemoteIovec{{Base: address, Len: 8}}, 0)
	return err
}

// open opens a file, and reads a byte of one that it opens for reading. O_NONBLOCK: a FIFO or
// device in that place must not hold the attack up. A file that opens and cannot be read, as
// environ of others, counts as denied.
func open(name string, flags int) error {
	fd, err := unix.Open(name, flags|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if flags == unix.O_RDONLY {
		_, err = unix.Read(fd, make([]byte, 1))
	}
	return err
}

// makeAndOpen makes a node of a disk, opens it and takes the node away. target is a name and the
// device's number. Only to open it is an attack: a container may make nodes.
func makeAndOpen(target string) error {
	var name string
	var major, minor uint32
	if _, err := fmt.Sscanf(target, "%s %d:%d", &name, &major, &minor); err != nil {
		return err
	}
	if err := unix.Mknod(name, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return err
	}
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err == nil {
		err = unix.Close(fd)
	}
	return errors.Join(err, unix.Unlink(name))
}

// list reads a folder. An empty folder is no success: it is what the jail's root shows.
func list(name string) error {
	entries, err := os.ReadDir(name)
	if err == nil && len(entries) == 0 {
		err = errors.New("it is empty")
	}
	return err
}

// fill writes more than a sandbox's own file system holds. It has 8 MiB.
func fill(name string) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(make([]byte, 16<<20))
	return errors.Join(err, f.Close())
}

// socket makes one and closes it: having it is the attack.
func socket(domain, kind int) error {
	fd, err := unix.Socket(domain, kind, 0)
	if err != nil {
		return err
	}
	return unix.Close(fd)
}

// connect sends nothing: a connection is the attack.
func connect(network, address string) error {
	conn, err := (&net.Dialer{}).DialContext(context.Background(), network, address)
	if err != nil {
		return err
	}
	return conn.Close()
}

// manyForks is more than a sandbox's cgroup allows. That bound is 1,024 processes and threads.
const manyForks = 1100

// forks makes processes, which have ended when it returns. Each child waits for the end of a pipe,
// so that all of them exist at once. The raw calls are those that a child of a Go program may make.
func forks(string) error {
	var ends [2]int
	if err := unix.Pipe(ends[:]); err != nil {
		return err
	}
	defer func() {
		// The children's reads end with the last descriptor of the write end, which they have
		// closed themselves.
		_, _ = unix.Close(ends[0]), unix.Close(ends[1])
		for {
			if _, err := unix.Wait4(-1, nil, unix.WALL, nil); err != nil && !errors.Is(err, unix.EINTR) {
				return
			}
		}
	}()
	for range manyForks {
		pid, _, errno := unix.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
		if errno != 0 {
			return errno
		}
		if pid == 0 {
			var b byte
			_, _, _ = unix.RawSyscall(unix.SYS_CLOSE, uintptr(ends[1]), 0, 0)
			at := uintptr(unsafe.Pointer(&b)) //nolint:gosec // of the child alone
			_, _, _ = unix.RawSyscall(unix.SYS_READ, uintptr(ends[0]), at, 1)
			_, _, _ = unix.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
	return nil
}

// bpf makes a map, the least that needs the right.
func bpf(string) error {
	attr := [18]uint32{2, 4, 4, 1}                                                    // an array of one element
	return call(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr)) //nolint:gosec // a union bpf_attr
}

// perf counts what the first CPU runs, of all processes.
func perf(string) error {
	attr := unix.PerfEventAttr{Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK}
	attr.Size = uint32(unsafe.Sizeof(attr))
	fd, err := unix.PerfEventOpen(&attr, -1, 0, -1, 0) // all that the first CPU runs
	if err != nil {
		return err
	}
	return unix.Close(fd)
}
