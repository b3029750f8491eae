// SPDX-License-Identifier: Apache-2.0

package sys

import "time"

// watchdogStep is the least time between two looks: without it the waits for lost time would become
// a loop.
const watchdogStep = time.Second

// Watchdog is a timer for what may get no CPU of the host: time that it was starved counts only
// against a second, longer limit. A fixed limit would take all guests of a busy host for hung. Stop
// ends it.
type Watchdog struct {
	*time.Timer
	limit, most time.Duration
	starved     func() time.Duration
	begin       time.Time     // zero within the grace
	before      time.Duration // starved until then
}

// NewWatchdog fires when, after the grace, limit has passed without the time of starvation, or most
// with it. starved tells the latter in all since any time; it may cost much, so it is not asked
// within the grace. Nil means never.
func NewWatchdog(grace, limit, most time.Duration, starved func() time.Duration) *Watchdog {
	if starved == nil {
		starved = func() time.Duration { return 0 }
	}
	return &Watchdog{Timer: time.NewTimer(grace), limit: limit, most: most, starved: starved}
}

// Over is asked each time the timer has fired, and sets it anew unless the limit has been reached.
// passed and lost are all time since the grace, and that without a CPU.
func (w *Watchdog) Over() (passed, lost time.Duration, over bool) {
	if w.begin.IsZero() {
		w.begin, w.before = time.Now(), w.starved()
	}
	passed, lost = time.Since(w.begin), max(0, w.starved()-w.before)
	left := min(w.limit-(passed-lost), w.most-passed)
	if left <= 0 {
		return passed, lost, true
	}
	w.Reset(max(watchdogStep, left))
	return passed, lost, false
}
