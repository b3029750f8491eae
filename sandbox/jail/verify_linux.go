// SPDX-License-Identifier: Apache-2.0

package jail

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrEscaped is wrapped when a process is not in the jail that it was started in.
var ErrEscaped = errors.New("process is not in its jail")

// Verify reads back from the kernel what every thread of the process has: user and groups,
// capabilities, no_new_privs, system call filters and namespaces. It is called while the
// process cannot have been reaped, before it does anything for a guest.
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
	if seen == 0 {
		return fmt.Errorf("verify the jail of pid %d: no thread is left", pid)
	}
	if err := j.Limits.check(pid); err != nil {
		return err
	}
	return j.checkNamespaces(pid)
}

// checkStatus compares /proc/PID/status with the jail.
func (j Jail) checkStatus(text []byte) error {
	fields := statusOf(text)
	if err := j.Owner.check(fields); err != nil {
		return err
	}
	if j.Bounding != nil {
		for _, name := range []string{"CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"} {
			have, err := strconv.ParseUint(fields[name], 16, 64)
			if err != nil {
				return fmt.Errorf("%w: %s %q: %w", ErrEscaped, name, fields[name], err)
			}
			if extra := Set(have) &^ *j.Bounding; extra != 0 {
				return fmt.Errorf("%w: %s is %v, want at most %v", ErrEscaped, name, Set(have), *j.Bounding)
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

// check compares the real, effective, saved and file system ids, and the groups.
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

func (j Jail) checkNamespaces(pid int) error {
	for _, ns := range namespaces() {
		if j.Isolate&ns.flag == 0 {
			continue
		}
		own, err := os.Readlink("/proc/self/ns/" + ns.name)
		if err != nil {
			return fmt.Errorf("verify the jail of pid %d: %w", pid, err)
		}
		have, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns.name))
		if err != nil {
			return fmt.Errorf("verify the jail of pid %d: %w", pid, err)
		}
		if have == own {
			return fmt.Errorf("verify the jail of pid %d: %w: it is in the host's %s namespace", pid, ErrEscaped, ns.name)
		}
	}
	return nil
}

type namespace struct {
	name string
	flag uintptr
}

// namespaces are those that Isolate may name.
func namespaces() []namespace {
	return []namespace{{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}}
}
