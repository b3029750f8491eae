// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"cloister/labels"

	"golang.org/x/sys/unix"
)

// ProcessLabel is the label of a process's first thread. The others may have another: Verify reads
// all of them.
func (h Host) ProcessLabel(pid int) (labels.Label, error) {
	return h.current(h.proc(strconv.Itoa(pid), "attr", "current"))
}

// OwnLabel is the label of the calling process. It is in the raw form, which is what the kernel
// gives; translated names come from mcstransd, which is not asked.
func (h Host) OwnLabel() (labels.Label, error) { return h.current(h.proc("self", "attr", "current")) }

// current reads one attribute file that must hold a label.
func (h Host) current(path string) (labels.Label, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return labels.Label{}, fmt.Errorf("read back a label: %w", err)
	}
	label, err := labels.Parse(strings.TrimRight(string(text), "\x00\n"))
	if err != nil {
		return labels.Label{}, fmt.Errorf("read back %s: %w", path, err)
	}
	return label, nil
}

// checkNext reads the label that pid will run its next program under: its first thread has it
// pending, and no thread has another. A thread without one that executes a program anyway takes the
// first one's place, under the label that this process has now: checkStarted finds that.
func (h Host) checkNext(pid int, want labels.Label) (int, error) {
	tasks, err := os.ReadDir(h.proc(strconv.Itoa(pid), "task"))
	if err != nil {
		return 0, fmt.Errorf("threads of pid %d: %w", pid, err)
	}
	count := 0
	for _, task := range tasks {
		got, err := h.next(pid, task.Name())
		if gone(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		first := task.Name() == strconv.Itoa(pid)
		if got != want && (first || !got.IsZero()) {
			return 0, wrongLabel(pid, task.Name(), "exec", got, want)
		}
		if got == want {
			count++
		}
	}
	if count == 0 {
		return 0, fmt.Errorf("threads of pid %d: none is left", pid)
	}
	return count, nil
}

// next is the label that a thread's next program will run under; zero for none.
func (h Host) next(pid int, thread string) (labels.Label, error) {
	path := h.proc(strconv.Itoa(pid), "task", thread, "attr", "exec")
	text, err := os.ReadFile(path)
	if err != nil {
		return labels.Label{}, fmt.Errorf("read back a label: %w", err)
	}
	if text = bytes.TrimRight(text, "\x00\n"); len(text) == 0 {
		return labels.Label{}, nil
	}
	label, err := labels.Parse(string(text))
	if err != nil {
		return labels.Label{}, fmt.Errorf("read back %s: %w", path, err)
	}
	return label, nil
}

// checkStarted is checkThreads for a process that was told to execute its program and may not have
// come to it: then the label must be pending. The kernel puts the one in the place of the other at
// once, so a label that is neither is read once more.
func (h Host) checkStarted(pid int, want labels.Label) (int, error) {
	if got, err := h.ProcessLabel(pid); err == nil && got != want {
		if _, err := h.checkNext(pid, want); err == nil {
			return 1, nil
		}
	}
	return h.checkThreads(pid, want)
}

// wrongLabel names the thread, since one that differs from the others is the sign of a label set on
// the wrong thread.
func wrongLabel(pid int, thread, attribute string, got, want labels.Label) error {
	shown := "none"
	if !got.IsZero() {
		shown = got.String()
	}
	return fmt.Errorf("%w: thread %s of pid %d: its %s label is %s, want %v: run: cloister check",
		ErrWrongLabel, thread, pid, attribute, shown, want)
}

// checkThreads reads the label of every thread of pid and counts them. No thread at all is an
// error: a process that is gone was not verified. A thread that is made later has the label of the
// one that makes it.
func (h Host) checkThreads(pid int, want labels.Label) (int, error) {
	folder := h.proc(strconv.Itoa(pid), "task")
	tasks, err := os.ReadDir(folder)
	if err != nil {
		return 0, fmt.Errorf("threads of pid %d: %w", pid, err)
	}
	count := 0
	for _, task := range tasks {
		got, err := h.current(h.proc(strconv.Itoa(pid), "task", task.Name(), "attr", "current"))
		// A thread that ends between the listing and the reading is no thread that could run
		// anything.
		if gone(err) {
			continue
		}
		if err != nil {
			return 0, err
		}
		if got != want {
			return 0, wrongLabel(pid, task.Name(), "current", got, want)
		}
		count++
	}
	if count == 0 {
		return 0, fmt.Errorf("threads of pid %d: none is left", pid)
	}
	return count, nil
}

// checkProgram holds /proc/PID/exe against the file at path, by device and inode. The text of that
// link is a path, which may mean another file by now.
func (h Host) checkProgram(pid int, path string) error {
	want, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("program of pid %d: %w", pid, err)
	}
	link := h.proc(strconv.Itoa(pid), "exe")
	got, err := os.Stat(link)
	if err != nil {
		return fmt.Errorf("program of pid %d: %w", pid, err)
	}
	if !os.SameFile(got, want) {
		name, _ := os.Readlink(link)
		return fmt.Errorf("%w: pid %d runs %s, want %s", ErrWrongProgram, pid, name, path)
	}
	return nil
}

// Seen is what a look at the host's processes found.
type Seen struct {
	Processes []labels.Process
	// Hidden counts processes whose label could not be read: those are not known to be harmless.
	Hidden int
}

// Processes reads the label of every process of the host, whoever started it. Where SELinux is not
// enabled it finds none. Labels of another security module are left out. It takes about 20 ms for
// 1,000 processes; a level that a process gets during the look may be missed.
func (h Host) Processes(ctx context.Context) (Seen, error) {
	enabled, err := h.Enabled()
	if err != nil || !enabled {
		return Seen{}, err
	}
	folder, err := os.Open(h.proc())
	if err != nil {
		return Seen{}, fmt.Errorf("look at the host's processes: %w", err)
	}
	defer folder.Close() // read only
	names, err := folder.Readdirnames(-1)
	if err != nil {
		return Seen{}, fmt.Errorf("look at the host's processes: %w", err)
	}
	var seen Seen
	buffer := make([]byte, 4096)
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return Seen{}, fmt.Errorf("look at the host's processes: %w", err)
		}
		text, err := readInto(buffer, h.proc(name, "attr", "current"))
		switch {
		case gone(err):
		case err != nil:
			seen.Hidden++
		default:
			if label, err := labels.Parse(string(bytes.TrimRight(text, "\x00\n"))); err == nil {
				seen.Processes = append(seen.Processes, labels.Process{PID: pid, Label: label})
			}
		}
	}
	return seen, nil
}

// readInto is os.ReadFile without its allocation and its second reading: Processes calls it for
// every process of the host. A context that does not fit the buffer of a page does not exist.
func readInto(buffer []byte, path string) ([]byte, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd) // read only
	n, err := unix.Read(fd, buffer)
	if err != nil {
		return nil, err
	}
	return buffer[:n], nil
}

// gone tells that a process or thread has ended. Reading a file of a thread that ended after the
// open gives ESRCH.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }
