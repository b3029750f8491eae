// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Process names a process for good: a pid alone is given out again.
type Process struct {
	Pid       int    `json:"pid"`
	StartTime uint64 `json:"startTime"` // ticks since boot: field 22 of /proc/pid/stat
}

// ProcessOf names the running process pid.
func ProcessOf(pid int) (Process, error) {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return Process{}, err
	}
	start, _, err := parseStat(stat)
	return Process{Pid: pid, StartTime: start}, err
}

// parseStat reads the start time and the state; the name before them may hold
// anything, closing brackets too.
func parseStat(stat []byte) (start uint64, state byte, err error) {
	_, rest, ok := bytes.Cut(stat[max(0, bytes.LastIndexByte(stat, ')')):], []byte(") "))
	fields := bytes.Fields(rest)
	if !ok || len(fields) < 20 {
		return 0, 0, fmt.Errorf("stat %.80q: not of a process", stat)
	}
	start, err = strconv.ParseUint(string(fields[19]), 10, 64)
	return start, fields[0][0], err
}

// Alive says that this very process runs; one that only waits to be collected
// by its parent does not.
func (p Process) Alive() bool {
	stat, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(p.Pid), "stat"))
	if err != nil {
		return false
	}
	start, state, err := parseStat(stat)
	return err == nil && start == p.StartTime && state != 'Z' && state != 'X'
}

// Kill kills this very process and waits for its end. One that is gone is no
// error.
func (p Process) Kill(ctx context.Context) error {
	if p.Pid <= 0 {
		return nil
	}
	fd, err := unix.PidfdOpen(p.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("pidfd of %d: %w", p.Pid, err)
	}
	defer func() { _ = unix.Close(fd) }()
	if !p.Alive() { // asked after the open: the descriptor is of the process that was asked about
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("kill %d: %w", p.Pid, err)
	}
	return p.await(ctx, fd)
}

// await waits until the pidfd says that the process has ended.
func (p Process) await(ctx context.Context, fd int) error {
	for {
		wait := 100 * time.Millisecond
		if deadline, ok := ctx.Deadline(); ok {
			wait = min(wait, max(0, time.Until(deadline)))
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, int(wait.Milliseconds()))
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("wait for %d: %w", p.Pid, err)
		}
		if ctx.Err() != nil {
			return fmt.Errorf("process %d has not ended: %w", p.Pid, ctx.Err())
		}
	}
}

// maxEnviron bounds what is read of a process's environment.
const maxEnviron = 2 << 20

// Marked lists the processes whose environment has the line marker (see
// Dir.Marker), the caller left out.
func Marked(marker string) ([]Process, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []Process
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !hasEnviron(pid, marker) {
			continue
		}
		if p, err := ProcessOf(pid); err == nil {
			out = append(out, p)
		}
	}
	return out, nil
}

// MarkedOthers lists the processes that carry the mark of another sandbox than dir.
func MarkedOthers(dir Dir) ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var out []int
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if mark := Mark(pid); mark != "" && mark != string(dir) {
			out = append(out, pid)
		}
	}
	return out, nil
}

// Mark is the sandbox's folder that a process's environment names (Dir.Marker); empty for none.
func Mark(pid int) string {
	for _, v := range environ(pid) {
		if folder, ok := strings.CutPrefix(v, markerName); ok {
			return folder
		}
	}
	return ""
}

func hasEnviron(pid int, line string) bool { return slices.Contains(environ(pid), line) }

// environ is a process's environment, one that cannot be read is empty.
func environ(pid int) []string {
	f, err := os.Open(filepath.Join("/proc", strconv.Itoa(pid), "environ"))
	if err != nil {
		return nil
	}
	defer func() { _ = f.Close() }()
	env, err := io.ReadAll(io.LimitReader(f, maxEnviron))
	if err != nil {
		return nil
	}
	return strings.Split(string(env), "\x00")
}

// bootID names the host's boot.
func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return string(bytes.TrimSpace(b)), err
}
