// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memoryOperations are on System V objects and keys.
func memoryOperations() map[string]operation {
	return map[string]operation{
		"shm-attach": func(a []string) error { return shm(a, func(id int) error { return attach(id, 0) }) },
		"shm-read":   func(a []string) error { return shm(a, func(id int) error { return attach(id, unix.SHM_RDONLY) }) },
		"shm-remove": func(a []string) error {
			return shm(a, func(id int) error { _, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil); return err })
		},
		"shm-stat": func(a []string) error {
			return shm(a, func(id int) error { _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &unix.SysvShmDesc{}); return err })
		},
		"sem-op": func(a []string) error {
			return withPID(a, func(key int) error {
				id, _, errno := unix.Syscall(unix.SYS_SEMGET, uintptr(key), 0, 0)
				if errno != 0 {
					return step("semget", errno)
				}
				return step("semctl", call(unix.SYS_SEMCTL, id, 0, 16, 1)) // SETVAL
			})
		},
		"msg-send": func(a []string) error {
			return withPID(a, func(key int) error {
				id, _, errno := unix.Syscall(unix.SYS_MSGGET, uintptr(key), 0, 0)
				if errno != 0 {
					return step("msgget", errno)
				}
				message := [2]uint64{1, 2}
				return step("msgsnd", call(unix.SYS_MSGSND, id, uintptr(unsafe.Pointer(&message[0])), 8, unix.IPC_NOWAIT))
			})
		},
		"key-read": func(a []string) error {
			return withPID(a, func(key int) error {
				_, err := unix.KeyctlBuffer(unix.KEYCTL_READ, key, make([]byte, 64), 0)
				return err
			})
		},
		"key-revoke": func(a []string) error {
			return withPID(a, func(key int) error { _, err := unix.KeyctlInt(unix.KEYCTL_REVOKE, key, 0, 0, 0); return err })
		},
		"key-add": func([]string) error {
			_, err := unix.AddKey("user", "probe", []byte("x"), unix.KEY_SPEC_PROCESS_KEYRING)
			return err
		},
	}
}

func systemOperations() map[string]operation {
	return map[string]operation{
		"io-uring": func([]string) error {
			var params [120]byte
			return ioUring(params[:])
		},
		"userfaultfd": func([]string) error { return call(unix.SYS_USERFAULTFD, unix.O_CLOEXEC) },
		"bpf-map": func([]string) error {
			attr := struct{ kind, key, value, max, flags uint32 }{2, 4, 4, 1, 0}
			return call(unix.SYS_BPF, 0, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		},
		"perf": func([]string) error {
			attr := unix.PerfEventAttr{
				Type: unix.PERF_TYPE_SOFTWARE, Config: unix.PERF_COUNT_SW_CPU_CLOCK,
				Size: uint32(unsafe.Sizeof(unix.PerfEventAttr{})),
			}
			_, err := unix.PerfEventOpen(&attr, -1, 0, -1, 0)
			return err
		},
		"module": func(a []string) error {
			return withFile(a[0], unix.O_RDONLY, func(fd int) error { return step("finit_module", unix.FinitModule(fd, "", 0)) })
		},
		"module-memory": func([]string) error { return unix.InitModule(make([]byte, 64), "") },
		"delete-module": func(a []string) error { return unix.DeleteModule(a[0], unix.O_NONBLOCK) },
		"reboot":        func([]string) error { return unix.Reboot(unix.LINUX_REBOOT_CMD_CAD_OFF) },
		"syslog":        func([]string) error { _, err := unix.Klogctl(3, make([]byte, 64)); return err },
		"hostname":      func([]string) error { return unix.Sethostname([]byte("lab")) },
		"settime": func([]string) error {
			var now unix.Timeval
			if err := unix.Gettimeofday(&now); err != nil {
				return err
			}
			return unix.Settimeofday(&now)
		},
		"swapon": func(a []string) error {
			path, err := unix.BytePtrFromString(a[0])
			if err != nil {
				return err
			}
			return call(unix.SYS_SWAPON, uintptr(unsafe.Pointer(path)), 0)
		},
		"iopl":     func([]string) error { return unix.Iopl(3) },
		"kexec":    func([]string) error { return call(unix.SYS_KEXEC_LOAD, 0, 0, 0, 0) },
		"mlock":    func([]string) error { return mlock() },
		"mqueue":   mqueue,
		"quota":    func([]string) error { return call(unix.SYS_ACCT, 0) },
		"fanotify": func([]string) error { _, err := unix.FanotifyInit(unix.FAN_CLASS_CONTENT, 0); return err },
	}
}

func ioUring(params []byte) error {
	fd, _, errno := unix.Syscall(unix.SYS_IO_URING_SETUP, 4, pointer(params), 0)
	if errno != 0 {
		return errno
	}
	// The ring's memory is what a program needs of it.
	data, err := unix.Mmap(int(fd), 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return step("mmap", err)
	}
	return unix.Munmap(data)
}

func shm(a []string, do func(int) error) error {
	return withPID(a, func(key int) error {
		id, err := unix.SysvShmGet(key, 0, 0)
		if err != nil {
			return step("shmget", err)
		}
		return do(id)
	})
}

func attach(id, flags int) error {
	data, err := unix.SysvShmAttach(id, 0, flags)
	if err != nil {
		return step("shmat", err)
	}
	return unix.SysvShmDetach(data)
}

func mlock() error {
	limit := unix.Rlimit{}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return err
	}
	data, err := unix.Mmap(-1, 0, 1<<20, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return err
	}
	return unix.Mlock(data)
}

func mqueue(a []string) error {
	name, err := unix.BytePtrFromString(a[0])
	if err != nil {
		return err
	}
	flags := unix.O_RDWR
	if len(a) > 1 {
		n, err := strconv.Atoi(a[1])
		if err != nil {
			return err
		}
		flags |= n
	}
	fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(name)), uintptr(flags), 0o600, 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return errors.Join(unix.Close(int(fd)))
}
