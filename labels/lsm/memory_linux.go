// SPDX-License-Identifier: Apache-2.0

package lsm

import (
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"cloister/labels"

	"golang.org/x/sys/unix"
)

// LevelMemory gives the memory files of a process its level, and reads it back. They are a guest's
// memory. On Debian's policy they have it already; Fedora's and RHEL's give a new file the level of
// where it is made (default_range), which for a memfd is s0, and every guest could use it. It is
// called before the guest runs, as Verify is. A file system that takes no labels is an error. The
// type stays as the policy's own transition has made it. Memory of shared's type belongs to other
// sandboxes too: it never gets the level, and must have shared's. shared may be zero.
func (d *Driver) LevelMemory(pid int, level labels.Level, shared labels.Label) error {
	if d.mode == ModeNone {
		return nil
	}
	folder := d.host.proc(strconv.Itoa(pid), "fd")
	entries, err := os.ReadDir(folder)
	if gone(err) {
		return nil // Verify has told already
	}
	if err != nil {
		return fmt.Errorf("memory of pid %d: %w", pid, err)
	}
	for _, entry := range entries {
		path := d.host.proc(strconv.Itoa(pid), "fd", entry.Name())
		if to, err := os.Readlink(path); err != nil || !strings.HasPrefix(to, "/memfd:") {
			continue // closed since, or something else
		}
		if err := levelFile(path, level, shared); err != nil {
			return fmt.Errorf("memory of pid %d: %w", pid, err)
		}
	}
	return nil
}

// LabelMemory labels a memory file that this process has made for another one, which will run under
// process. It gets the label that it would have if that one had made it: the policy's own type for
// memory, at the process's level. It is called before the process starts, which opens the file by
// name. A file system that takes no labels is an error.
func (d *Driver) LabelMemory(f *os.File, process labels.Label) error {
	if d.mode == ModeNone {
		return nil
	}
	have, err := FileLabel(f) // that of the file system: memory has been given none
	if err != nil {
		return err
	}
	made, err := d.host.Created(process, have, "file")
	if err != nil {
		return fmt.Errorf("label of %s: %w", f.Name(), err)
	}
	made.Range = process.Range // not the level of the place, as with default_range
	return SetFileLabel(f, made)
}

// LabelShared labels a memory file that the machines of many sandboxes map. The label lets all of
// them open it for writing, so a file that the kernel's seals do not keep as it is does not get it.
// One that has the type has the whole label, or is refused: others use it.
func LabelShared(f *os.File, label labels.Label) error {
	const seals = unix.F_SEAL_WRITE | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_SEAL
	switch got, err := unix.FcntlInt(f.Fd(), unix.F_GET_SEALS, 0); {
	case err != nil:
		return fmt.Errorf("seals of %s: %w", f.Name(), err)
	case got&seals != seals:
		return fmt.Errorf("%w: %s has seals %#x, want %#x before machines may share it", ErrWrongLabel, f.Name(), got, seals)
	}
	have, err := FileLabel(f)
	if err != nil {
		return err
	}
	if have.Type == label.Type {
		return sharedLevel(f, have, label)
	}
	return SetFileLabel(f, label)
}

// sharedLevel is an error if memory of the type that sandboxes share has another level. User and
// role are those of the shim that made it, and grant nothing.
func sharedLevel(f *os.File, have, want labels.Label) error {
	if have.Range == want.Range {
		return nil
	}
	return fmt.Errorf("%w: %s, which sandboxes share, is %v, want level %v", ErrWrongLabel, f.Name(), have, want.Range)
}

// CanShareMemory asks the kernel whether a process may map a memory file of that label privately.
// QEMU before 8.2 opens it for writing even so.
func (d *Driver) CanShareMemory(process, file labels.Label) error {
	if err := d.host.Valid(file); err != nil {
		return err
	}
	decision, err := d.host.Access(process, file, "file", "open", "read", "write", "map", "getattr")
	if err == nil && !decision.Allowed {
		err = fmt.Errorf("%v has no %s of class file on %v", process, strings.Join(decision.Missing, ", "), file)
	}
	return err
}

// levelFile changes the level of one file. It is opened through /proc/PID/fd with O_PATH, so the
// descriptor is the process's file and is not read or mapped.
func levelFile(path string, level labels.Level, shared labels.Label) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	f := os.NewFile(uintptr(fd), path)
	defer f.Close() // O_PATH
	have, err := FileLabel(f)
	if err != nil {
		return err
	}
	if !shared.IsZero() && have.Type == shared.Type {
		return sharedLevel(f, have, shared)
	}
	if have.Range == labels.At(level) {
		return nil
	}
	return SetFileLabel(f, have.WithLevel(level))
}
