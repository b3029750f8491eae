// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"errors"
	"testing"
	"time"
)

// TestSetTimeRepeatsSlowCalls gives calls a duration, of which half is the way to the guest.
func TestSetTimeRepeatsSlowCalls(t *testing.T) {
	const ms = time.Millisecond
	for _, test := range []struct {
		name  string
		trips []time.Duration
		calls int
		most  time.Duration // error of the guest's clock
	}{
		{"fast", []time.Duration{10 * ms}, 1, 5 * ms},
		{"slow once", []time.Duration{300 * ms, 20 * ms}, 2, 20 * ms},
		{"as slow each time", []time.Duration{300 * ms, 300 * ms, 300 * ms, 300 * ms, 300 * ms}, timeTries, 0},
		{"slow, then fast twice", []time.Duration{300 * ms, 60 * ms, 20 * ms}, 3, 20 * ms},
	} {
		now, calls, off := time.Unix(1000, 0), 0, time.Duration(0)
		err := setTime(func() time.Time { return now }, func(sent time.Time) error {
			trip := test.trips[calls]
			off = now.Add(trip / 2).Sub(sent)
			now = now.Add(trip)
			calls++
			return nil
		})
		if err != nil || calls != test.calls || off.Abs() > test.most {
			t.Errorf("%s: %d calls, clock off by %s, %v, want %d calls and at most %s", test.name, calls, off, err, test.calls, test.most)
		}
	}
	failed := errors.New("gone")
	if err := setTime(time.Now, func(time.Time) error { return failed }); !errors.Is(err, failed) {
		t.Errorf("setTime = %v, want %v", err, failed)
	}
}
