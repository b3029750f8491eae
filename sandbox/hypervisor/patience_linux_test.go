// SPDX-License-Identifier: Apache-2.0

package hypervisor

import (
	"context"
	"errors"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestEndure(t *testing.T) {
	for _, test := range []struct {
		name  string
		share float64 // of the time in which there is no processor
		want  time.Duration
	}{
		{name: "a free host", want: time.Minute},
		{name: "half of a processor", share: 0.5, want: 2 * time.Minute},
		{name: "a fifth", share: 0.8, want: 5 * time.Minute},
		{name: "none at all", share: 1, want: 10 * time.Minute},
		{name: "a clock that goes back", share: -1, want: time.Minute},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				err := endure(t.Context(), time.Minute, func() time.Duration {
					return time.Duration(test.share * float64(time.Since(begin)))
				}, "silence")
				if got := time.Since(begin); !errors.Is(err, context.DeadlineExceeded) || got < test.want || got > test.want+5*time.Second {
					t.Errorf("endure = %v after %s, want after %s", err, got, test.want)
				}
			})
		})
	}
}

func TestEndureEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := endure(ctx, time.Hour, nil, "silence"); err != nil {
		t.Errorf("endure = %v, want none", err)
	}
}

func TestQueued(t *testing.T) {
	for in, want := range map[string]time.Duration{"": 0, "5": 0, "1 x 2": 0, "1 -2 3": 0, "12 345 6\n": 345} {
		if got := queuedOf([]byte(in)); got != want {
			t.Errorf("queuedOf(%q) = %s, want %s", in, got, want)
		}
	}
	if _, err := os.Stat("/proc/self/schedstat"); err == nil && queued(os.Getpid()) == 0 {
		t.Error("no thread of this process has ever waited for a processor")
	}
}
