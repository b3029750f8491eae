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

// maxNamed bounds how many calls an error names.
const maxNamed = 5

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
	if method == "Events" || method == "Wait" {
		return func() {} // these wait for something to happen
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
