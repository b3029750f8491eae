// SPDX-License-Identifier: Apache-2.0

package boot

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openFiles is fs.nr_open's default; containers that name no limit inherit it.
const openFiles = 1 << 20

// pidMax is PID_MAX_LIMIT (include/linux/threads.h), which systemd sets on hosts.
const pidMax = "4194304"

// kernelLimits are those that the kernel derives from memory or the count of CPUs, and
// that are small in a small guest, with what a usual host has. They cost nothing until
// they are used, and then a container's memory is what bounds it. A workload's own
// sysctls come later.
func kernelLimits() [][2]string {
	const maxNamespaces = "65536"
	return [][2]string{
		{"kernel/pid_max", pidMax},
		{"kernel/threads-max", pidMax},
		{"fs/file-max", "9223372036854775807"},       // systemd
		{"fs/inotify/max_user_watches", "1048576"},   // fs/notify/inotify/inotify_user.c: the most that it takes by itself
		{"fs/inotify/max_user_instances", "8192"},    // the kernel's 128 are for the desktop of one user
		{"fs/fanotify/max_user_marks", "1048576"},    // fs/notify/fanotify/fanotify_user.c, as inotify's
		{"fs/epoll/max_user_watches", "4194304"},     // of a host with 16 GiB
		{"vm/max_map_count", "1048576"},              // what distributions set today; Docker cannot be asked for it
		{"net/netfilter/nf_conntrack_max", "262144"}, // net/netfilter/nf_conntrack_core.c: of a host with more than 4 GiB
		{"user/max_user_namespaces", maxNamespaces},
		{"user/max_mnt_namespaces", maxNamespaces},
		{"user/max_pid_namespaces", maxNamespaces},
		{"user/max_net_namespaces", maxNamespaces},
		{"user/max_ipc_namespaces", maxNamespaces},
		{"user/max_uts_namespaces", maxNamespaces},
		{"user/max_cgroup_namespaces", maxNamespaces},
		{"user/max_time_namespaces", maxNamespaces},
	}
}

// raiseLimits sets what containers inherit and share. It runs once, before any container: RLIMITs
// are inherited at fork, and raising a hard limit later would need CAP_SYS_RESOURCE in the
// container.
func raiseLimits() error {
	for _, l := range []struct {
		resource int
		limit    uint64
	}{
		{unix.RLIMIT_NOFILE, openFiles},
		// As containerd's unit has it: cgroups bound processes.
		{unix.RLIMIT_NPROC, unix.RLIM_INFINITY},
		// The kernel derives this one from memory too; queued signals of one user would run out
		// early in a small guest.
		{unix.RLIMIT_SIGPENDING, 1 << 16},
	} {
		if err := unix.Setrlimit(l.resource, &unix.Rlimit{Cur: l.limit, Max: l.limit}); err != nil {
			return fmt.Errorf("raise limit %d of processes: %w", l.resource, err)
		}
	}
	for _, l := range kernelLimits() {
		// Not every kernel has each of them.
		if err := os.WriteFile("/proc/sys/"+l[0], []byte(l[1]), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("raise limit: %w", err)
		}
	}
	return nil
}
