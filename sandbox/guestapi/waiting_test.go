// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"context"
	"errors"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
)

// TestErrorOfASilentGuest wants the error to name the calls, since when, and what is seen from
// outside.
func TestErrorOfASilentGuest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &Client{guard: &frameGuard{Conn: hungUp{}}, machine: Machine{Look: func() string { return "its CPUs are running" }}}
		defer c.waiting.add("Kill")()
		defer c.waiting.add("Events")()
		time.Sleep(10 * time.Second)
		err := c.answer(t.Context(), "Start", nil)
		const want = "the guest does not answer: unavailable: waiting for its answer: Kill for 2m10s, Start for 2m0s; its CPUs are running"
		if err == nil || err.Error() != want || !errors.Is(err, ErrSilent) || !errdefs.IsUnavailable(err) || errors.Is(err, ErrProtocol) {
			t.Errorf("answer = %v, want %s", err, want)
		}
		if reason := c.guard.reason.Load(); reason == nil || !errors.Is(*reason, ErrSilent) {
			t.Errorf("the session's end = %v, want the same", reason)
		}
	})
}

// TestStarvedGuestHasMoreTime has a guest that gets no CPU, and calls that have no bound.
func TestStarvedGuestHasMoreTime(t *testing.T) {
	for method, want := range map[string]time.Duration{
		"Start":  maxSilence/2 + silenceCap*maxSilence,
		"Wait":   24 * time.Hour,
		"Events": 24 * time.Hour,
	} {
		synctest.Test(t, func(t *testing.T) {
			begin := time.Now()
			starved := func() time.Duration {
				if time.Since(begin) < maxSilence/2 {
					t.Error("asked about a call that is quick")
				}
				return time.Since(begin)
			}
			c := &Client{guard: &frameGuard{Conn: hungUp{}}, machine: Machine{Starved: starved}}
			ctx, cancel := context.WithTimeout(t.Context(), 24*time.Hour)
			defer cancel()
			err := c.answer(ctx, method, nil)
			if got := time.Since(begin); got < want || got > want+2*time.Second || errors.Is(err, ErrSilent) == endless(method) {
				t.Errorf("%s: %v after %s, want %s", method, err, got, want)
			}
		})
	}
}

func TestWaitingListIsBounded(t *testing.T) {
	var w waiting
	for range 7 {
		w.add("State")
	}
	if got, want := w.text(time.Now()),
		"waiting for its answer: State for 0s, State for 0s, State for 0s, State for 0s, State for 0s, and 2 more"; got != want {
		t.Errorf("text = %q, want %q", got, want)
	}
}

// hungUp is a connection that nothing is done with but to close it.
type hungUp struct{ net.Conn }

func (hungUp) Close() error { return nil }
