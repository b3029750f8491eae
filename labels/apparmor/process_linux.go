// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// SetExec has the next program that the calling thread starts run in a profile. The caller has
// locked the thread, never unlocks it, and starts one program: the kernel has no way to take the
// wish back. If the thread went back to the scheduler, any program that was started from it next
// would run in the guest's profile.
func (h Host) SetExec(profile string) error {
	if err := h.Ready(); err != nil {
		return err
	}
	enter := h.Enter
	if enter == nil {
		enter = h.enter
	}
	if err := enter("exec " + profile); err != nil {
		return fmt.Errorf("have the next program run in profile %s: %w: is this process itself confined (%s)?",
			profile, err, h.proc("self", "attr", "current"))
	}
	return nil
}

// enter writes the attribute of AppArmor alone, which kernels have since 5.1; before, the shared
// one. It is one write, as the kernel wants it.
func (h Host) enter(text string) error {
	fd, err := unix.Open(h.proc("thread-self", "attr", "apparmor", "exec"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		fd, err = unix.Open(h.proc("thread-self", "attr", "exec"), unix.O_WRONLY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return err
	}
	_, err = unix.Write(fd, []byte(text))
	return errors.Join(err, unix.Close(fd))
}

// Verify reads back that every thread of the process is confined by the profile, which is enforced,
// and that the process runs the program. It is called while the process cannot have been reaped,
// since another could have its pid by then, and before the guest runs. A profile can be in complain
// mode by itself, so its own mode is compared too. Without a program, as for plain containers,
// which run files of their own, any will do. Any error means that the process must be killed.
func (h Host) Verify(pid int, profile, program string) (threads int, err error) {
	if err := h.enforcing(); err != nil {
		return 0, fmt.Errorf("verify pid %d: %w", pid, err)
	}
	if program == "" {
		return h.Confined(pid, profile)
	}
	if err := h.runs(pid, program); err != nil {
		return 0, fmt.Errorf("verify: %w", err)
	}
	return h.Confined(pid, profile)
}

// Confined is Verify of the threads alone. A process may lose its profile while it runs: the kernel
// leaves it unconfined when somebody removes the profile, as aa-remove-unknown does.
func (h Host) Confined(pid int, profile string) (threads int, err error) {
	folder := []string{strconv.Itoa(pid), "task"}
	tasks, err := os.ReadDir(h.proc(folder...))
	if err != nil {
		return 0, fmt.Errorf("verify: threads of pid %d: %w", pid, err)
	}
	for _, task := range tasks {
		name, mode, err := h.current(append(folder, task.Name())...)
		switch {
		case gone(err):
			continue
		case err != nil:
			return 0, fmt.Errorf("verify pid %d: %w", pid, err)
		case name != profile:
			return 0, fmt.Errorf("verify: %w: thread %s of pid %d runs in %s, want %s", ErrUnconfined, task.Name(), pid, name, profile)
		case mode != "enforce" && mode != "kill":
			return 0, fmt.Errorf("verify: %w: profile %s of pid %d is in mode %s, want enforce", ErrComplain, name, pid, mode)
		}
		threads++
	}
	if threads == 0 {
		return 0, fmt.Errorf("verify: threads of pid %d: none is left", pid)
	}
	return threads, nil
}

// Enforced is an error unless a profile is loaded and enforced, and so is the host's mode. It
// stands for reading back what an OCI runtime's process will run in: the kernel shows a pending
// profile (attr/apparmor/exec) to its own process alone, and answers for the reader.
func (h Host) Enforced(profile string) error {
	if err := h.enforcing(); err != nil {
		return err
	}
	all, err := h.Profiles()
	if err != nil {
		return err
	}
	switch mode, loaded := all[profile]; {
	case !loaded:
		return fmt.Errorf("%w: profile %s is not loaded", ErrUnconfined, profile)
	case mode != "enforce" && mode != "kill":
		return fmt.Errorf("%w: profile %s is in mode %s, want enforce", ErrComplain, profile, mode)
	}
	return nil
}

// Entered is Verify for a process that its OCI runtime, the file starter, was told to start: it
// runs in the profile, or still the runtime's own code. That is waited for until ctx ends. A
// program that looks like the runtime may be unconfined until then, which is an error as well.
func (h Host) Entered(ctx context.Context, pid int, profile, starter string) error {
	for {
		starting := h.isCopy(pid, starter) // read first: what comes next may be the program in its profile
		if !starting {
			h.executed(pid)
		}
		_, err := h.Verify(pid, profile, "")
		if !starting || !errors.Is(err, ErrUnconfined) {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(time.Millisecond):
		}
	}
}

// executed waits for an exec that is under way. The kernel shows the new program before the process
// is in its profile, and lets nobody open the environment in between (exec_update_lock).
func (h Host) executed(pid int) {
	if f, err := os.Open(h.proc(strconv.Itoa(pid), "environ")); err == nil {
		_ = f.Close() // nothing was read
	}
}

// isCopy tells whether a process runs what could be an OCI runtime's code. Runtimes run from a copy
// of themselves, in memory or on a mount of their own, so the file itself says nothing. crun's copy
// has the name / where that mount has no place any more. The one that is named may be a wrapper of
// crun or runc.
func (h Host) isCopy(pid int, runtime string) bool {
	link, err := os.Readlink(h.proc(strconv.Itoa(pid), "exe"))
	name := filepath.Base(strings.TrimSuffix(link, " (deleted)"))
	known := []string{filepath.Base(runtime), "crun", "runc"}
	return err == nil && (link == "/" || strings.HasPrefix(link, "/memfd:") || slices.Contains(known, name))
}

// runs compares /proc/PID/exe with the file at path, by device and inode.
func (h Host) runs(pid int, path string) error {
	want, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("program of pid %d: %w", pid, err)
	}
	link := h.proc(strconv.Itoa(pid), "exe")
	have, err := os.Stat(link)
	if err != nil {
		return fmt.Errorf("program of pid %d: %w", pid, err)
	}
	if !os.SameFile(have, want) {
		name, _ := os.Readlink(link)
		return fmt.Errorf("%w: pid %d runs %s, want %s", ErrUnconfined, pid, name, path)
	}
	return nil
}

// current reads what confines a process or thread. Kernels before 5.1 have the shared attribute
// alone.
func (h Host) current(parts ...string) (name, mode string, err error) {
	at := func(more ...string) string { return h.proc(append(append([]string{}, parts...), more...)...) }
	text, err := os.ReadFile(at("attr", "apparmor", "current"))
	if errors.Is(err, fs.ErrNotExist) {
		text, err = os.ReadFile(at("attr", "current"))
	}
	if err != nil {
		return "", "", err
	}
	return parse(string(text))
}

// confined lists the processes that run in a profile or one of its children. One that has ended
// and waits for its parent executes nothing any more.
func (h Host) confined(profile string) ([]int, error) {
	entries, err := os.ReadDir(h.proc())
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		name, _, err := h.current(entry.Name())
		switch {
		case gone(err), errors.Is(err, unix.EINVAL): // EINVAL: another security module's process
			continue
		case err != nil:
			return nil, fmt.Errorf("read the AppArmor profile of pid %d: %w", pid, err)
		case name != profile && !strings.HasPrefix(name, profile+"//"):
			continue
		}
		if _, err := os.Readlink(h.proc(entry.Name(), "exe")); gone(err) {
			continue
		}
		pids = append(pids, pid)
	}
	return pids, nil
}
