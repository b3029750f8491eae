// SPDX-License-Identifier: Apache-2.0

package host

import (
	"os/exec"
	"testing"
	"time"
)

// Bounds for what hangs. They are long, and the same for all tests: how soon something comes on a
// host that is busy with other guests proves nothing, and only what never comes is a failure. A
// test about speed compares with a baseline of the same run instead.
const (
	Patience  = 2 * time.Minute // for what is awaited
	CallLimit = 6 * time.Minute // for a whole call, which may start a machine
)

// Grace is Patience for an engine's stop, in seconds: how long a container that handles the signal
// has before it is killed. The engines' own ten seconds are too few for a guest on a busy host.
const Grace = "120"

// Await asks for a complaint until there is none or the time is over, and gives the last one.
func Await(most time.Duration, complaint func() string) string {
	deadline := time.After(most)
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for {
		text := complaint()
		if text == "" {
			return ""
		}
		select {
		case <-deadline:
			return text
		case <-tick.C:
		}
	}
}

// awaitServing waits until the daemon name answers a question, and fails the test when it has ended
// or does not in time.
func awaitServing(t testing.TB, name, log string, done <-chan struct{}, question func() *exec.Cmd) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(Patience)
	for question().Run() != nil {
		select {
		case <-done:
			t.Fatalf("%s ended:\n%s", name, tail(log, 30))
		case <-deadline:
			t.Fatalf("%s does not answer after %s:\n%s", name, Patience, tail(log, 30))
		case <-tick.C:
		}
	}
}
