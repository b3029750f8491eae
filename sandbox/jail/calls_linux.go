// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// calls are the system calls of every role: memory, threads, time, and what is done with open
// files. They were taken from traces of QEMU 7.2 and of virtiofsd under emulation, with what KVM,
// other versions of glibc and QEMU 10 use for the same ends. docs/packages.md says what QEMU 10
// calls beside them. There are no sockets among them but those of socketpair. A call that is
// missing here makes the program fail with EPERM, so a new version of QEMU may need more:
// jail.seccomp = "log" names them. One that is here in vain widens the kernel's surface for a
// process that was taken over.
const calls = `
	arch_prctl brk madvise mbind membarrier memfd_create mincore mlock mlock2 mlockall mmap mprotect mremap msync munlock munlockall
	munmap get_mempolicy set_mempolicy set_mempolicy_home_node
	exit exit_group futex futex_requeue futex_wait futex_waitv futex_wake get_robust_list rseq sched_getaffinity sched_getattr
	sched_getparam sched_getscheduler sched_yield set_robust_list set_tid_address getcpu
	alarm getitimer pause restart_syscall rt_sigaction rt_sigpending rt_sigprocmask rt_sigreturn rt_sigsuspend rt_sigtimedwait
	setitimer sigaltstack signalfd signalfd4 tgkill
	clock_getres clock_gettime clock_nanosleep gettimeofday nanosleep time timer_create timer_delete timer_getoverrun timer_gettime
	timer_settime timerfd_create timerfd_gettime timerfd_settime times
	getegid geteuid getgid getgroups getpgid getpgrp getpid getppid getpriority getresgid getresuid getrlimit getrusage getsid gettid
	getuid capget prctl seccomp sysinfo umask uname getrandom
	access faccessat faccessat2 fadvise64 fallocate fcntl fdatasync fgetxattr flistxattr flock fstat fstatfs fsync ftruncate getcwd
	getdents getdents64 getxattr lgetxattr listxattr llistxattr lseek lstat newfstatat open openat openat2 readlink readlinkat stat
	statfs statx sync_file_range chdir fchdir
	close close_range copy_file_range dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd
	eventfd2 ioctl pipe pipe2 poll ppoll pread64 preadv preadv2 pselect6 pwrite64 pwritev pwritev2 read readahead readv select sendfile
	splice tee vmsplice write writev
	getpeername getsockname getsockopt recvfrom recvmmsg recvmsg sendmmsg sendmsg sendto setsockopt shutdown socketpair
`

// serverCalls are more of a file server's. It makes and changes files in the name of its
// guest's users; the kind of file that mknodat makes is a matter of its capabilities. It
// accepts its one connection.
const serverCalls = `
	accept accept4 capset chroot
	chmod fchmod fchmodat fchmodat2 chown fchown fchownat lchown
	creat link linkat mkdir mkdirat mknodat name_to_handle_at rename renameat renameat2 rmdir symlink symlinkat syncfs sync truncate
	unlink unlinkat futimesat utime utimensat utimes
	fremovexattr fsetxattr lremovexattr lsetxattr removexattr setxattr
	setfsgid setfsuid setgid setgroups setregid setresgid setresuid setreuid setrlimit setuid
`

// startCalls are what the thread that starts the program makes after its filter is installed:
// its child becomes another user and executes the program. A process that has no capability
// gains nothing by them.
const startCalls = `execve setgid setgroups setuid wait4 waitid pidfd_open`

// condition is a system call that is allowed if the bits of mask in an argument are value. Only
// numbers can be compared: a filter sees pointers and not what they point to.
type condition struct {
	name        string
	argument    uint32
	mask, value uint64
}

// Calls are the system calls that a process may make. Every other fails with EPERM; clone3 with
// ENOSYS, since a filter cannot see its arguments and glibc then uses clone. Calls are made by
// callsOfQEMU and callsOfVirtiofsd, and do not change.
type Calls struct {
	names      []string
	conditions []condition
	// OwnFilters is how many filters the program itself installs on top on its first thread.
	// QEMU 7.2 has threads by then that do not get them.
	OwnFilters int
	// Log lets every call through, and has the kernel's audit log name those that are not in
	// the list.
	Log bool
}

// callsOfQEMU is the list of a machine's process. It may make threads, and no process.
func callsOfQEMU() Calls {
	return Calls{names: fields(calls, startCalls), conditions: []condition{newThread(), ownLimits()}, OwnFilters: 1}
}

// callsOfVirtiofsd is the list of a file server. Each of its threads has a working directory of its
// own. The C server gets it by unshare(CLONE_FS), which makes no namespace.
func callsOfVirtiofsd() Calls {
	return Calls{
		names:      fields(calls, serverCalls, startCalls),
		conditions: []condition{newThread(), ownLimits(), {"unshare", 0, ^uint64(0), unix.CLONE_FS}},
		OwnFilters: 1,
	}
}

// newThread allows clone to make a thread. Without CLONE_THREAD the call would make a process, or a
// namespace with its flags.
func newThread() condition { return condition{"clone", 0, unix.CLONE_THREAD, unix.CLONE_THREAD} }

// ownLimits allows prlimit64 on the calling process, which it names by 0. A captured server could
// otherwise change the limits of root's processes: prlimit64 asks for the same ids, and the server
// has root's.
func ownLimits() condition { return condition{"prlimit64", 0, ^uint64(0), 0} }

// fields gives each name once.
func fields(lists ...string) []string {
	names := strings.Fields(strings.Join(lists, " "))
	slices.Sort(names)
	return slices.Compact(names)
}
