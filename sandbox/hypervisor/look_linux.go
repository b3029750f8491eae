// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

const (
	// lookLimit bounds a question to a QEMU that may hang as well.
	lookLimit = 5 * time.Second
	// lookTime is for how long QEMU's use of the CPU is watched.
	lookTime = 500 * time.Millisecond
	// tick is a clock tick of /proc (USER_HZ) on every architecture of Linux.
	tick = time.Second / 100
)

// Look says what the host sees of a guest that does not answer. A machine that runs and uses no CPU
// waits for an interrupt. A file server that is stopped, or whose threads wait for the host's disk,
// explains a guest that waits for its files. It takes up to six seconds, changes nothing, and is
// asked when a call has had no answer.
func (v *VM) Look() string { return v.lookAtMachine() + "; " + v.lookAtFiles() }

// lookAtMachine asks QEMU only when it can answer.
func (v *VM) lookAtMachine() string {
	select {
	case <-v.Machine.Done():
		return "QEMU has ended"
	default:
	}
	pid := v.Machine.Pid()
	before := threads(pid)
	if before.stopped() {
		return fmt.Sprintf("QEMU (pid %d) %s", pid, stoppedText)
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
	defer cancel()
	status, err := v.Machine.Status(ctx)
	if err != nil {
		status = err.Error()
	}
	// Read again, since the question may have taken seconds.
	before = threads(pid)
	time.Sleep(lookTime) //nolint:forbidigo // the time over which CPU time is measured
	after := threads(pid)
	return fmt.Sprintf("QEMU (pid %d) says its CPUs are %s and used %s of CPU time in %s%s",
		pid, status, after.cpu-before.cpu, lookTime, after.blocked())
}

// lookAtFiles has no question to ask: virtiofsd has no monitor.
func (v *VM) lookAtFiles() string {
	if v.Files == nil {
		return "it has no file server"
	}
	select {
	case <-v.Files.Done():
		return "the file server has ended"
	default:
	}
	pid := v.Files.Pid()
	seen := threads(pid)
	if seen.stopped() {
		return fmt.Sprintf("the file server (pid %d) %s", pid, stoppedText)
	}
	return fmt.Sprintf("the file server (pid %d) runs%s", pid, seen.blocked())
}

const stoppedText = "is stopped, by a signal or a debugger: SIGCONT lets it go on"

// work is what the threads of a process do.
type work struct {
	cpu     time.Duration
	disk    []string // where in the host's kernel threads wait uninterruptibly
	threads int
	halted  int // threads that a signal or a debugger has stopped
}

// stopped is true when no thread can run.
func (w work) stopped() bool { return w.threads > 0 && w.halted == w.threads }

func (w work) blocked() string {
	if len(w.disk) == 0 {
		return ", no thread waits for the host's disks"
	}
	return fmt.Sprintf(", %d threads wait for the host's disks (%s)", len(w.disk), strings.Join(w.disk, " "))
}

// threads reads what the host's kernel says of a process's threads; those that are gone count
// nothing. State D (uninterruptible) is how a hung disk or network file system looks from outside.
func threads(pid int) (w work) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		stat, err := os.ReadFile(filepath.Join(task, "stat"))
		if err != nil {
			continue
		}
		state, cpu := statOf(stat)
		w.cpu += cpu
		w.threads++
		switch state {
		case "T", "t":
			w.halted++
		case "D":
			channel, _ := os.ReadFile(filepath.Join(task, "wchan"))
			w.disk = append(w.disk, string(bytes.TrimSpace(channel)))
		}
	}
	return w
}

// statOf reads state, utime and stime of a /proc/PID/stat, whose second field may hold any byte.
// That field is the program's name in parentheses, so the last parenthesis ends it.
func statOf(stat []byte) (state string, cpu time.Duration) {
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	const utime, stime = 11, 12 // after the name
	if len(fields) <= stime {
		return "", 0
	}
	for _, field := range fields[utime : stime+1] {
		n, err := strconv.ParseInt(field, 10, 64)
		if err == nil {
			cpu += time.Duration(n) * tick
		}
	}
	return fields[0], cpu
}
