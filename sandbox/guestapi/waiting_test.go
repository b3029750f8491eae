// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
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

func TestWaitingNamesAFew(t *testing.T) {
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
