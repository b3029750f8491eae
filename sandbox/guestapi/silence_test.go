// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"testing"
	"testing/synctest"
	"time"
)

// TestSilence has guests say nothing that got a processor all the time, half of it, and never.
func TestSilence(t *testing.T) {
	share := func(of int) func() time.Duration {
		begin := time.Now()
		return func() time.Duration { return time.Since(begin) * time.Duration(of) / 100 }
	}
	for _, test := range []struct {
		name    string
		starved func() func() time.Duration
		want    time.Duration // within a second
	}{
		{"nobody knows", func() func() time.Duration { return nil }, maxSilence},
		{"a processor all the time", func() func() time.Duration { return share(0) }, maxSilence},
		{"half of the time", func() func() time.Duration { return share(50) }, maxSilence/2 + maxSilence},
		{"never", func() func() time.Duration { return share(100) }, maxSilence/2 + silenceCap*maxSilence},
	} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			s := newSilence("State", test.starved())
			defer s.end()
			over := false
			for !over {
				<-s.C
				over = s.over()
			}
			if got := time.Since(begin); got < test.want || got > test.want+2*silenceStep {
				t.Errorf("%s: given up after %s, want %s", test.name, got, test.want)
			}
		})
	}
	s := newSilence("Events", nil)
	if s.C != nil {
		t.Error("a call that waits for something to happen has a bound")
	}
	s.end()
}
