// SPDX-License-Identifier: Apache-2.0

package sys

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestWatchdog watches what got a CPU all the time, half of it and never, with and without a grace.
func TestWatchdog(t *testing.T) {
	const limit, most = time.Minute, 20 * time.Minute
	share := func(of int) func() func() time.Duration {
		return func() func() time.Duration {
			begin := time.Now()
			return func() time.Duration { return time.Since(begin) * time.Duration(of) / 100 }
		}
	}
	for _, tt := range []struct {
		name    string
		starved func() func() time.Duration
		want    time.Duration // after the grace, within two steps
	}{
		{"nobody knows", func() func() time.Duration { return nil }, limit},
		{"a CPU all the time", share(0), limit},
		{"half of the time", share(50), 2 * limit},
		{"never", share(100), most},
		{"a clock that goes back", share(-100), limit},
	} {
		for _, grace := range []time.Duration{0, limit} {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				w := NewWatchdog(grace, limit, most, tt.starved())
				defer w.Stop()
				for over := false; !over; {
					<-w.C
					_, _, over = w.Over()
				}
				if got := time.Since(begin) - grace; got < tt.want || got > tt.want+2*watchdogStep {
					t.Errorf("%s: over after %s and a grace of %s, want %s", tt.name, got, grace, tt.want)
				}
			})
		}
	}
}

func TestWatchdogStop(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := NewWatchdog(time.Second, time.Second, time.Second, nil)
		w.Stop()
		select {
		case <-w.C:
			t.Error("it fires after Stop")
		case <-time.After(time.Hour):
		}
	})
}
