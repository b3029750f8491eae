// SPDX-License-Identifier: Apache-2.0

package qemu

import (
	"context"
	"strconv"
	"time"

	"cloister/vmm"
)

// TSC measures the frequency of the host's time stamp counter, from NewTSC on.
//
// An emulated machine has the host's counter. Its kernel would calibrate the
// counter against an emulated timer, which goes wrong by any factor on a busy host
// (a guest's clock has been seen to run at five times the speed), unless it is told
// the frequency.
type TSC struct{ start tscSample }

// tscSample is one reading of counter and clock.
type tscSample struct {
	ticks uint64
	at    time.Time
}

// minTSCWindow gives an error below one in ten thousand, which the guest's own
// refinement then removes; the kernel rejects refinements beyond one in a hundred
// (tsc_refine_calibration_work).
const minTSCWindow = 10 * time.Millisecond

// NewTSC begins to measure. It costs microseconds: call it early.
func NewTSC() TSC { return TSC{start: sampleTSC()} }

// KHz returns the frequency, having waited until it is known well enough; 0 where
// there is no such counter or ctx ends first.
func (t TSC) KHz(ctx context.Context) int {
	if t.start.ticks == 0 {
		return 0
	}
	wait := time.NewTimer(minTSCWindow - time.Since(t.start.at))
	defer wait.Stop()
	select {
	case <-wait.C:
	case <-ctx.Done():
		return 0
	}
	end := sampleTSC()
	return int(float64(end.ticks-t.start.ticks) / float64(end.at.Sub(t.start.at)) * 1e6)
}

// Cmdline returns the kernel parameters by which a machine under accel keeps time.
func (t TSC) Cmdline(ctx context.Context, accel vmm.Accel) []string {
	// A guest of KVM has KVM's own clock.
	if accel != vmm.AccelTCG {
		return nil
	}
	khz := t.KHz(ctx)
	if khz == 0 {
		return nil
	}
	// The check whether the timer interrupts fails, too, when the host is busy.
	return []string{"tsc_early_khz=" + strconv.Itoa(khz), "tsc=reliable", "no_timer_check"}
}

// sampleTSC reads counter and clock together: the closest of a few attempts, since
// this thread may be interrupted in between.
func sampleTSC() tscSample {
	var best tscSample
	closest := time.Hour
	for range 5 {
		before := time.Now()
		ticks := rdtsc()
		if apart := time.Since(before); apart < closest {
			best, closest = tscSample{ticks, before.Add(apart / 2)}, apart
		}
	}
	return best
}
