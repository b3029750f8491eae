// SPDX-License-Identifier: Apache-2.0

package guest

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"

	"cloister/sandbox/guestapi"
)

// TestWakeIsInOrder: a woken guest has the host's seed, new keys and the host's time before its
// agent starts anew, and a step that fails is the last one.
func TestWakeIsInOrder(t *testing.T) {
	message := guestapi.Wake{TimeUnixNano: 42, Seed: [guestapi.WakeSeedBytes]byte{1, 2}, KeepMemory: true}
	order := []string{
		fmt.Sprintf("add entropy %x", message.Seed), "reseed", "set time 42", "leave balloon", "start anew",
	}
	for failing := range len(order) + 1 { // at last none fails
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		_, err = w.WriteString(message.String())
		if err = errors.Join(err, w.Close()); err != nil {
			t.Fatal(err)
		}
		broken := errors.New("broken")
		var done []string
		step := func(what string) error {
			done = append(done, what)
			if len(done) == failing+1 {
				return broken
			}
			return nil
		}
		err = waker{
			addEntropy:   func(seed []byte) error { return step(fmt.Sprintf("add entropy %x", seed)) },
			reseed:       func() error { return step("reseed") },
			setTime:      func(unixNano int64) error { return step(fmt.Sprintf("set time %d", unixNano)) },
			leaveBalloon: func() error { return step("leave balloon") },
			startAnew: func(port *os.File) error {
				if port != r {
					t.Errorf("the new agent gets the port %v, want %v", port, r)
				}
				return step("start anew")
			},
		}.wake(r)
		want, wantErr := order, error(nil)
		if failing < len(order) {
			want, wantErr = order[:failing+1], broken
		}
		if diff := cmp.Diff(want, done); diff != "" || !errors.Is(err, wantErr) {
			t.Errorf("step %d fails: %v, want %v; steps (-want +got):\n%s", failing, err, wantErr, diff)
		}
	}
}
