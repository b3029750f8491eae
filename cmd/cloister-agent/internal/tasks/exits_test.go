// SPDX-License-Identifier: Apache-2.0

package tasks

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/api/events"

	queue "cloister/cmd/cloister-agent/internal/events"
)

func TestExits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newExits(queue.New())
		start := time.Now()
		e.wait(t.Context(), process{"c", ""})
		if waited := time.Since(start); waited != exitWait {
			t.Errorf("without an exit it waits %v, want %v", waited, exitWait)
		}
		for _, p := range []process{{"c", ""}, {"c", "x"}} {
			id := string(p.exec)
			if id == "" {
				id = string(p.container)
			}
			if err := e.Publish(t.Context(), "/tasks/exit", &events.TaskExit{ContainerID: string(p.container), ID: id}); err != nil {
				t.Fatal(err)
			}
			start = time.Now()
			e.wait(t.Context(), p)
			if waited := time.Since(start); waited != 0 {
				t.Errorf("after the exit of %v it waits %v", p, waited)
			}
			e.forget(p)
		}
		if len(e.seen) != 0 {
			t.Errorf("%d exits are remembered", len(e.seen))
		}
	})
}

// TestExitsOfAbandonedExecs: what is remembered of execs that nobody deletes goes with their
// container.
func TestExitsOfAbandonedExecs(t *testing.T) {
	e := newExits(queue.New())
	for _, p := range []process{{"c", "x"}, {"c", "y"}, {"c", ""}, {"d", "x"}} {
		e.pass(p)
	}
	e.forget(process{"c", ""})
	if len(e.seen) != 1 || e.seen[process{"d", "x"}] == nil {
		t.Errorf("remembered: %v, want only d's exec", e.seen)
	}
}
