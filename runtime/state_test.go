// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"errors"
	"testing"

	"github.com/containerd/errdefs"
)

func TestEveryPairOfStateAndEvent(t *testing.T) {
	legal := map[State]map[Event]State{
		Created: {Start: Running, Exit: Stopped, Delete: Deleted},
		Running: {Pause: Paused, Exit: Stopped},
		Paused:  {Resume: Running, Exit: Stopped},
		Stopped: {Delete: Deleted},
		Deleted: {},
	}
	for from := Created; from <= Deleted; from++ {
		for on := Start; on <= Delete; on++ {
			got, err := next(from, on)
			want, ok := legal[from][on]
			switch {
			case ok && (err != nil || got != want):
				t.Errorf("next(%s, %s) = %s, %v, want %s", from, on, got, err, want)
			case !ok && !errors.Is(err, errdefs.ErrFailedPrecondition):
				t.Errorf("next(%s, %s) = %s, %v, want failed precondition", from, on, got, err)
			case !ok && got != from:
				t.Errorf("next(%s, %s) moved to %s on an error", from, on, got)
			}
		}
	}
}
