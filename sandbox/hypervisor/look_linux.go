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
// waits for an interrupt. A file server whose threads wait for the host's disk explains a guest
// that waits for its files.
func (v *VM) Look() string {
	ctx, cancel := context.WithTimeout(context.Background(), lookLimit)
	defer cancel()
	var seen []string
	select {
	case <-v.Machine.Done():
		seen = append(seen, "QEMU has ended")
	default:
		status, err := v.Machine.Status(ctx)
		if err != nil {
			status = err.Error()
		}
		begin := threads(v.Machine.Pid()).cpu
		time.Sleep(lookTime) //nolint:forbidigo // the time over which CPU time is measured
		qemu := threads(v.Machine.Pid())
		seen = append(seen, fmt.Sprintf("QEMU (pid %d) says its CPUs are %s and used %s of CPU time in %s%s",
			v.Machine.Pid(), status, qemu.cpu-begin, lookTime, qemu.blocked()))
	}
	select {
	case <-v.Files.Done():
		seen = append(seen, "the file server has ended")
	default:
		seen = append(seen, fmt.Sprintf("the file server (pid %d) runs%s", v.Files.Pid(), threads(v.Files.Pid()).blocked()))
	}
	return strings.Join(seen, "; ")
}

// work is what the threads of a process do.
type work struct {
	cpu  time.Duration
	disk []string // where in the host's kernel threads wait uninterruptibly
}

func (w work) blocked() string {
	if len(w.disk) == 0 {
		return ", no thread waits for the host's disks"
	}
	return fmt.Sprintf(", %d threads wait for the host's disks (%s)", len(w.disk), strings.Join(w.disk, " "))
}

// threads reads what the host's kernel says of a process's threads; those that are gone count
// nothing.
func threads(pid int) (w work) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*", pid))
	for _, task := range tasks {
		stat, err := os.ReadFile(filepath.Join(task, "stat"))
		if err != nil {
			continue
		}
		state, cpu := statOf(stat)
		w.cpu += cpu
		if state == "D" {
			channel, _ := os.ReadFile(filepath.Join(task, "wchan"))
			w.disk = append(w.disk, string(bytes.TrimSpace(channel)))
		}
	}
	return w
}

// statOf reads state, utime and stime of a /proc/PID/stat, whose second field may hold any byte.
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
