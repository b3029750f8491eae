// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// ErrEscaped is wrapped when a process is not in the jail that it was started in. It means a fault
// of this program, of the kernel or of the configuration of the host, and never of a workload. The
// sandbox must not start.
var ErrEscaped = errors.New("process is not in its jail")

// Verify reads back from the kernel what every thread of the process has: user and groups,
// capabilities, no_new_privs and system call filters, with a Tree also the root directory. Limits,
// cgroup and namespaces are the process's. It is called while the process cannot have been reaped,
// before it does anything for a guest. A thread that begins during the look inherits what its maker
// has. The pid must still be the process's own.
func (j Jail) Verify(pid int) error {
	folder := filepath.Join("/proc", strconv.Itoa(pid), "task")
	tasks, err := os.ReadDir(folder)
	if err != nil {
		return fmt.Errorf("verify the jail of pid %d: %w", pid, err)
	}
	seen := 0
	for _, task := range tasks {
		text, err := os.ReadFile(filepath.Join(folder, task.Name(), "status"))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err == nil {
			err = j.checkStatus(text)
		}
		if err != nil {
			return fmt.Errorf("verify the jail of pid %d, thread %s: %w", pid, task.Name(), err)
		}
		seen++
	}
	// A process without threads has ended; nothing was verified.
	if seen == 0 {
		return fmt.Errorf("verify the jail of pid %d: no thread is left", pid)
	}
	if err := j.Limits.check(pid); err != nil {
		return err
	}
	if err := j.checkGroup(pid); err != nil {
		return fmt.Errorf("verify the jail of pid %d: %w", pid, err)
	}
	if err := j.checkNamespaces(pid); err != nil || j.Tree == nil {
		return err
	}
	return j.Root.verify(pid)
}

// checkGroup wants the process in its cgroup, which bounds its memory, processes and devices.
func (j Jail) checkGroup(pid int) error {
	if j.Group == nil {
		return nil
	}
	held, err := j.Group.Holds(pid)
	if err == nil && !held {
		err = fmt.Errorf("%w: it is not in cgroup %v", ErrEscaped, j.Group)
	}
	return err
}

// checkStatus compares /proc/PID/status with the jail. "At most" and not "equal": fewer rights are
// no escape.
func (j Jail) checkStatus(text []byte) error {
	fields := statusOf(text)
	if err := j.Owner.check(fields); err != nil {
		return err
	}
	most := j.Bounding
	if j.Kept != nil && fields["Pid"] == fields["Tgid"] { // the C server has a thread that gives nothing up
		most = j.Kept
	}
	if most != nil {
		for _, name := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			have, err := strconv.ParseUint(fields[name], 16, 64)
			if err != nil {
				return fmt.Errorf("%w: %s %q: %w", ErrEscaped, name, fields[name], err)
			}
			if extra := Set(have) &^ *most; extra != 0 {
				return fmt.Errorf("%w: %s is %v, want at most %v", ErrEscaped, name, Set(have), *most)
			}
		}
	}
	if j.NoNewPrivs && fields["NoNewPrivs"] != "1" {
		return fmt.Errorf("%w: NoNewPrivs is %q, want 1", ErrEscaped, fields["NoNewPrivs"])
	}
	if j.Calls != nil {
		return j.Calls.check(fields)
	}
	return nil
}

// check compares the real, effective, saved and file system ids, and the groups. Groups are
// compared in order, as the kernel sorts them.
func (o Owner) check(fields map[string]string) error {
	if o.ID == 0 {
		return nil
	}
	groups := make([]string, len(o.Groups))
	for i, g := range o.Groups {
		groups[i] = strconv.FormatUint(uint64(g), 10)
	}
	id := strconv.FormatUint(uint64(o.ID), 10)
	all := strings.Join([]string{id, id, id, id}, "\t")
	for _, f := range []struct{ name, want string }{{"Uid", all}, {"Gid", all}, {"Groups", strings.Join(groups, " ")}} {
		if have := fields[f.name]; have != f.want {
			return fmt.Errorf("%w: %s is %q, want %q", ErrEscaped, f.name, have, f.want)
		}
	}
	return nil
}

// checkNamespaces compares the namespaces of a process with those that it was put into, and wants
// all that were made with it to be others than this process's.
func (j Jail) checkNamespaces(pid int) error {
	given := map[string]*os.File{}
	if j.Network != nil {
		given["net"] = j.Network
	}
	if j.Root != nil {
		given["mnt"] = j.Root.ns
	}
	if j.PIDs != nil {
		given["pid"] = j.PIDs.ns
	}
	for _, ns := range namespaces() {
		if j.Isolate&ns.flag == 0 && given[ns.name] == nil {
			continue
		}
		have, err := identityOf(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name))
		if err != nil {
			return fmt.Errorf("verify the jail of pid %d: %w", pid, err)
		}
		own, err := identityOf("/proc/self/ns/" + ns.name)
		if err != nil {
			return fmt.Errorf("verify the jail of pid %d: %w", pid, err)
		}
		if f := given[ns.name]; f != nil {
			info, err := f.Stat() // the file is closed when the process ends
			if err != nil {
				return fmt.Errorf("verify the jail of pid %d: %s namespace: %w", pid, ns.name, err)
			}
			if want := info.Sys().(*syscall.Stat_t).Ino; have != want { //nolint:forcetypeassert // what an os.File of Linux gives
				return fmt.Errorf("verify the jail of pid %d: %w: it is in %s namespace %d, want %d", pid, ErrEscaped, ns.name, have, want)
			}
		} else if have == own {
			return fmt.Errorf("verify the jail of pid %d: %w: it is in the host's %s namespace", pid, ErrEscaped, ns.name)
		}
	}
	return nil
}

// identityOf is the inode that tells one namespace from another. All namespaces are in one file
// system, nsfs, so the inode is enough.
func identityOf(link string) (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat(link, &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: link, Err: err}
	}
	return st.Ino, nil
}

// VerifyRoot reads back that the root directory of every thread of a process is the top of that
// mount: each thread may have its own. The mount is compared as well: the same folder in another
// mount may be writable.
func VerifyRoot(pid int, top *os.File) error {
	defer runtime.KeepAlive(top)
	var want unix.Statx_t
	const mask = unix.STATX_MNT_ID | unix.STATX_INO
	if err := unix.Statx(int(top.Fd()), "", unix.AT_EMPTY_PATH, mask, &want); err != nil {
		return fmt.Errorf("verify the jail of pid %d: %w", pid, &os.PathError{Op: "statx", Path: top.Name(), Err: err})
	}
	roots, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/root", pid))
	if err != nil {
		return err
	}
	seen := 0
	for _, root := range roots {
		var have unix.Statx_t
		switch err := unix.Statx(unix.AT_FDCWD, root, 0, mask, &have); {
		case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ESRCH):
			continue // it has ended
		case err != nil:
			return fmt.Errorf("verify the jail of pid %d: %w", pid, &os.PathError{Op: "statx", Path: root, Err: err})
		case have.Mnt_id != want.Mnt_id || have.Ino != want.Ino:
			return fmt.Errorf("verify the jail of pid %d: %w: %s is inode %d of mount %d, want %d of %d",
				pid, ErrEscaped, root, have.Ino, have.Mnt_id, want.Ino, want.Mnt_id)
		}
		seen++
	}
	if seen == 0 {
		return fmt.Errorf("verify the jail of pid %d: no thread is left", pid)
	}
	return nil
}

type namespace struct {
	name string
	flag uintptr
}

// namespaces are those that a process can be in alone. The user namespace is not among them: both
// processes stay in the host's.
func namespaces() []namespace {
	return []namespace{
		{"ipc", unix.CLONE_NEWIPC},
		{"uts", unix.CLONE_NEWUTS},
		{"cgroup", unix.CLONE_NEWCGROUP},
		{"net", unix.CLONE_NEWNET},
		{"mnt", unix.CLONE_NEWNS},
		{"pid", unix.CLONE_NEWPID},
	}
}
