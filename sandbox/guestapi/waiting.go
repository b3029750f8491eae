// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

const (
	// maxSilence bounds a call that nobody else bounds: an agent that is alive is far quicker. Who
	// hears nothing for so long ends it all, since no task could be stopped otherwise. Once the
	// first half is over, time in which the guest is starved does not count.
	maxSilence = 2 * time.Minute
	// silenceCap bounds, as a multiple, how long a guest is waited for that gets no processor.
	silenceCap = 10
	// maxNamed bounds how many calls an error names.
	maxNamed = 5
)

// endless tells whether a call waits for something to happen in the guest, so that it has no bound.
func endless(method string) bool { return method == "Events" || method == "Wait" }

// waiting are the calls that the guest has not answered. Its zero value is empty. They are for the
// error of a guest that is silent: one call that hangs tells less than the list of all.
type waiting struct {
	mu    sync.Mutex
	last  int
	calls map[int]waitingCall
}

type waitingCall struct {
	method string
	since  time.Time
}

// add notes a call; the function it gives forgets it.
func (w *waiting) add(method string) (done func()) {
	if endless(method) {
		return func() {}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.calls == nil {
		w.calls = map[int]waitingCall{}
	}
	w.last++
	n := w.last
	w.calls[n] = waitingCall{method, time.Now()}
	return func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		delete(w.calls, n)
	}
}

// text names the calls that wait, oldest first: "Start for 2m0s, Kill for 1m10s".
func (w *waiting) text(now time.Time) string {
	w.mu.Lock()
	calls := make([]waitingCall, 0, len(w.calls))
	for _, c := range w.calls {
		calls = append(calls, c)
	}
	w.mu.Unlock()
	slices.SortFunc(calls, func(a, b waitingCall) int { return cmp.Or(a.since.Compare(b.since), cmp.Compare(a.method, b.method)) })
	var named []string
	for i, c := range calls {
		if i == maxNamed {
			named = append(named, fmt.Sprintf("and %d more", len(calls)-i))
			break
		}
		named = append(named, fmt.Sprintf("%s for %s", c.method, now.Sub(c.since).Round(time.Second)))
	}
	return "waiting for its answer: " + strings.Join(named, ", ")
}
