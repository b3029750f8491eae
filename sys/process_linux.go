// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// BootID names the host's boot; each boot has another name. Containers of the host have the same.
func BootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(b)), err
}

// Self is the identity of the calling process.
func Self() (Process, error) { return ProcessOf(os.Getpid()) }

// ProcessOf is the identity of the process that has pid now. Who was told the pid by somebody else
// must check that it is the process meant.
func ProcessOf(pid int) (Process, error) {
	s, err := readStat(pid)
	if err != nil {
		return Process{}, fmt.Errorf("identify pid %d: %w", pid, err)
	}
	boot, err := BootID()
	if err != nil {
		return Process{}, fmt.Errorf("identify pid %d: %w", pid, err)
	}
	space, err := pidNamespace()
	if err != nil {
		return Process{}, fmt.Errorf("identify pid %d: %w", pid, err)
	}
	return Process{PID: pid, Start: s.Start, Boot: boot, PIDNamespace: space}, nil
}

// Alive reports whether p still runs. A zombie does not, once its last thread has ended: of a
// killed process the main thread may have ended while others still hold its files. A process that
// is counted in another pid namespace of this boot cannot be looked up and counts as alive: what it
// holds is not taken from it by mistake. With an error nothing is known.
func (p Process) Alive() (bool, error) {
	if p.PID <= 0 {
		return false, nil
	}
	boot, err := BootID()
	if err != nil || p.Boot != boot {
		return false, err
	}
	space, err := pidNamespace()
	if err != nil || p.PIDNamespace != space {
		return err == nil, err
	}
	s, err := StatOf(p.PID)
	if err != nil {
		return false, fmt.Errorf("identify pid %d: %w", p.PID, err)
	}
	return s.Start == p.Start && !s.Ended(), nil
}

// Kill sends SIGKILL to p and waits until it has ended or ctx has. A process that has ended already
// is no error; one of another pid namespace is.
func (p Process) Kill(ctx context.Context) error {
	alive, err := p.Alive()
	if err != nil || !alive {
		return err
	}
	if space, err := pidNamespace(); err != nil || space != p.PIDNamespace {
		return errors.Join(fmt.Errorf("kill %v: it belongs to pid namespace %d", p, p.PIDNamespace), err)
	}
	fd, err := OpenPID(p.PID)
	if errors.Is(err, os.ErrProcessDone) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("kill %v: %w", p, err)
	}
	defer fd.Close()
	if alive, err := p.Alive(); err != nil || !alive { // the pid may have been given out before the open
		return err
	}
	if err := fd.Signal(unix.SIGKILL); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %v: %w", p, err)
	}
	if err := fd.Wait(ctx); err != nil {
		return fmt.Errorf("kill %v: %w", p, err)
	}
	return nil
}

// Stat is what is needed of /proc/PID/stat.
type Stat struct {
	State   byte // a letter, as R; X for a process that is gone
	Parent  int  // 0 for a process that is gone
	Threads int
	Start   uint64 // in clock ticks after boot
}

// StatOf reads the stat of the process that has pid now. A process that is gone is no error: with
// an error, as EMFILE, nothing is known of it.
func StatOf(pid int) (Stat, error) {
	s, err := readStat(pid)
	if gone(err) {
		return Stat{State: 'X'}, nil
	}
	return s, err
}

// Ended says that the process is gone or a zombie whose last thread has ended. One whose main
// thread alone has ended still runs.
func (s Stat) Ended() bool { return (s.State == 'Z' || s.State == 'X') && s.Threads <= 1 }

// readStat gives fs.ErrNotExist or ESRCH for a process that is gone.
func readStat(pid int) (Stat, error) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Stat{}, err
	}
	return parseStat(text)
}

// parseStat reads /proc/PID/stat. Its second field is a name in parentheses that may hold anything;
// field 3 follows the last closing one.
func parseStat(text []byte) (s Stat, err error) {
	fields := bytes.Fields(text[bytes.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 {
		return Stat{}, fmt.Errorf("stat %.80q: want 20 fields after the name, found %d", text, len(fields))
	}
	s.State = fields[0][0]
	if s.Parent, err = strconv.Atoi(string(fields[1])); err != nil { // field 4
		return Stat{}, err
	}
	if s.Threads, err = strconv.Atoi(string(fields[17])); err != nil { // field 20
		return Stat{}, err
	}
	s.Start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return s, err
}

// pidNamespace is the inode of the caller's pid namespace.
func pidNamespace() (uint64, error) {
	var st unix.Stat_t
	if err := unix.Stat("/proc/self/ns/pid", &st); err != nil {
		return 0, &os.PathError{Op: "stat", Path: "/proc/self/ns/pid", Err: err}
	}
	return st.Ino, nil
}

// gone tells that a process has ended, before its files were opened or after.
func gone(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) }
