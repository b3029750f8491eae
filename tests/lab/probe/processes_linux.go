// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

func processOperations() map[string]operation {
	return map[string]operation{
		"kill": func(a []string) error {
			return withTwo(a, func(pid, sig int) error { return unix.Kill(pid, unix.Signal(sig)) })
		},
		"ptrace": func(a []string) error { return withPID(a, unix.PtraceAttach) },
		"seize": func(a []string) error {
			return withPID(a, func(pid int) error { return call(unix.SYS_PTRACE, 0x4206, uintptr(pid), 0, 0) })
		},
		"vmread": func(a []string) error {
			return withPID(a, func(pid int) error {
				buffer := make([]byte, 16)
				local := []unix.Iovec{{Base: &buffer[0], Len: 16}}
				_, err := unix.ProcessVMReadv(pid, local, []unix.RemoteIovec{{Base: 0x400000, Len: 16}}, 0)
				if errors.Is(err, unix.EFAULT) { // let through, nothing there
					return nil
				}
				return err
			})
		},
		"getsched": func(a []string) error {
			return withPID(a, func(pid int) error {
				var set unix.CPUSet
				return unix.SchedGetaffinity(pid, &set)
			})
		},
		"setsched": func(a []string) error {
			return withPID(a, func(pid int) error {
				var set unix.CPUSet
				set.Set(0)
				return unix.SchedSetaffinity(pid, &set)
			})
		},
		"nice": func(a []string) error {
			return withPID(a, func(pid int) error { return unix.Setpriority(unix.PRIO_PROCESS, pid, 19) })
		},
		"ioprio": func(a []string) error {
			return withPID(a, func(pid int) error { return call(unix.SYS_IOPRIO_SET, 1, uintptr(pid), 3<<13) })
		},
		"prlimit": func(a []string) error {
			return withPID(a, func(pid int) error {
				limit := unix.Rlimit{Cur: 100, Max: 100}
				return unix.Prlimit(pid, unix.RLIMIT_NPROC, &limit, nil)
			})
		},
		"getrlimit": func(a []string) error {
			return withPID(a, func(pid int) error { return unix.Prlimit(pid, unix.RLIMIT_NPROC, nil, &unix.Rlimit{}) })
		},
		"getpgid": func(a []string) error {
			return withPID(a, func(pid int) error { _, err := unix.Getpgid(pid); return err })
		},
		"getsid": func(a []string) error {
			return withPID(a, func(pid int) error { _, err := unix.Getsid(pid); return err })
		},
		"capget": func(a []string) error {
			return withPID(a, func(pid int) error {
				header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3, Pid: int32(pid)}
				var data [2]unix.CapUserData
				return unix.Capget(&header, &data[0])
			})
		},
	}
}

// descriptorOperations are on processes by descriptor, on namespaces and on the process itself.
func descriptorOperations() map[string]operation {
	return map[string]operation{
		"pidfd-signal": func(a []string) error {
			return withTwo(a, func(pid, sig int) error {
				fd, err := unix.PidfdOpen(pid, 0)
				if err != nil {
					return step("pidfd_open", err)
				}
				return unix.PidfdSendSignal(fd, unix.Signal(sig), nil, 0)
			})
		},
		"pidfd-getfd": func(a []string) error {
			return withTwo(a, func(pid, fd int) error {
				target, err := unix.PidfdOpen(pid, 0)
				if err != nil {
					return step("pidfd_open", err)
				}
				_, err = unix.PidfdGetfd(target, fd, 0)
				return err
			})
		},
		"setns": func(a []string) error {
			return withFile(a[0], unix.O_RDONLY, func(fd int) error { return step("setns", unix.Setns(fd, 0)) })
		},
		"pidfd-setns": func(a []string) error {
			return withPID(a, func(pid int) error {
				fd, err := unix.PidfdOpen(pid, 0)
				if err != nil {
					return step("pidfd_open", err)
				}
				return step("setns", unix.Setns(fd, unix.CLONE_NEWNET))
			})
		},
		"migrate": func(a []string) error {
			return withPID(a, func(pid int) error {
				mask := uint64(1)
				p := uintptr(unsafe.Pointer(&mask))
				return call(unix.SYS_MIGRATE_PAGES, uintptr(pid), 64, p, p)
			})
		},
		"attr": func(a []string) error { return os.WriteFile("/proc/thread-self/attr/"+a[0], []byte(a[1]), 0) },
		"execmem": func([]string) error {
			data, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE|unix.PROT_EXEC, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
			if err != nil {
				return err
			}
			return unix.Munmap(data)
		},
		"unshare": func(a []string) error {
			flags := map[string]int{"user": unix.CLONE_NEWUSER, "net": unix.CLONE_NEWNET, "mount": unix.CLONE_NEWNS}
			return call(unix.SYS_UNSHARE, uintptr(flags[a[0]]))
		},
		"setuid": func([]string) error { return call(unix.SYS_SETRESUID, 1, 1, 1) },
		"setgid": func([]string) error { return call(unix.SYS_SETRESGID, 1, 1, 1) },
		"memfd-exec": func([]string) error {
			fd, err := unix.MemfdCreate("x", 0)
			if err != nil {
				return err
			}
			if err := unix.Ftruncate(fd, 4096); err != nil {
				return step("truncate", err)
			}
			return mapExec(fd)
		},
	}
}

func withPID(a []string, do func(int) error) error {
	pid, err := strconv.Atoi(a[0])
	if err != nil {
		return err
	}
	return do(pid)
}

func withTwo(a []string, do func(int, int) error) error {
	second, err := strconv.Atoi(a[1])
	if err != nil {
		return err
	}
	return withPID(a, func(pid int) error { return do(pid, second) })
}

// call is a system call that x/sys has no function for.
func call(number uintptr, a ...uintptr) error {
	var full [6]uintptr
	copy(full[:], a)
	_, _, errno := unix.Syscall6(number, full[0], full[1], full[2], full[3], full[4], full[5])
	if errno != 0 {
		return errno
	}
	return nil
}
