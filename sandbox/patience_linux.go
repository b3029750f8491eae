// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

const (
	// patienceCap bounds, as a multiple, how long a limit is drawn out on a host that has no processor for the machine.
	patienceCap = 10
	// patienceStep is the least time between two looks.
	patienceStep = time.Second
)

// patience bounds ctx by a clock that stands while the host has no processor for the machine: what a guest does not get
// to do is not its fault. The cause of the end says why.
func (s *Sandbox) patience(ctx context.Context, why string) (context.Context, context.CancelFunc) {
	before := queued(s.machine.Pid())
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		cancel(endure(ctx, s.config.Timeouts.Boot.Duration, func() time.Duration { return queued(s.machine.Pid()) - before }, why))
	}()
	return ctx, func() { cancel(nil) }
}

// endure returns when limit has passed, without what waited tells, or when ctx ends.
func endure(ctx context.Context, limit time.Duration, waited func() time.Duration, why string) error {
	begin := time.Now()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
		}
		passed, lost := time.Since(begin), max(0, waited())
		left := min(limit-(passed-lost), patienceCap*limit-passed)
		if left <= 0 {
			return fmt.Errorf("%s for %s, %s of them without a processor: timeouts.boot: %w",
				why, passed.Round(time.Second), lost.Round(time.Second), context.DeadlineExceeded)
		}
		timer.Reset(max(patienceStep, left))
	}
}

// queued is how long the thread of a process that has waited longest for a processor has done so; 0 where the kernel
// does not count it (CONFIG_SCHED_INFO).
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

// queuedOf reads a schedstat: time on a processor, time waited for one, both in ns, and how often it got one.
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
