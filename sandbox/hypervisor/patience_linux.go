// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"cloister/sys"
)

// patienceCap is the most, as a multiple, by which a limit grows while QEMU gets no CPU.
const patienceCap = 10

// Patience bounds ctx by Config.Boot. Time in which the host had no CPU for QEMU does not count:
// the guest could not run. The cause of ctx's end says why it ended. The caller calls the
// CancelFunc in any case: it ends the goroutine that measures.
func (v *VM) Patience(ctx context.Context, why string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		cancel(endure(ctx, v.config.Boot, v.Starved, why))
	}()
	return ctx, func() { cancel(nil) }
}

// Starved is how long QEMU has waited for a CPU of the host since it started. A host that runs 30
// guests on two CPUs gives each a small part of the time.
func (v *VM) Starved() time.Duration { return queued(v.Machine.Pid()) }

// endure returns an error when limit has passed, less the time that starved counts, or nil when ctx
// ends. So a limit of one minute ends after ten at most, however little CPU the host had.
func endure(ctx context.Context, limit time.Duration, starved func() time.Duration, why string) error {
	watchdog := sys.NewWatchdog(0, limit, patienceCap*limit, starved)
	defer watchdog.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-watchdog.C:
		}
		if passed, lost, over := watchdog.Over(); over {
			return fmt.Errorf("%s for %s, of which QEMU waited %s for a CPU: timeouts.boot: %w",
				why, passed.Round(time.Second), lost.Round(time.Second), context.DeadlineExceeded)
		}
	}
}

// queued is the longest time that a thread of the process has waited for a CPU. It is 0 if the
// kernel does not count it (CONFIG_SCHED_INFO). The longest and not the sum: threads wait at the
// same time.
func queued(pid int) (most time.Duration) {
	names, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", pid))
	for _, name := range names {
		data, err := os.ReadFile(name)
		if err != nil {
			continue // the thread is gone
		}
		most = max(most, queuedOf(data))
	}
	return most
}

// queuedOf parses a schedstat: time on a CPU and time waited for one, in ns, and the number of time
// slices.
func queuedOf(schedstat []byte) time.Duration {
	fields := bytes.Fields(schedstat)
	if len(fields) < 2 {
		return 0
	}
	ns, err := strconv.ParseUint(string(fields[1]), 10, 63)
	if err != nil {
		return 0
	}
	return time.Duration(ns)
}
