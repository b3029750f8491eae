// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"

	"cloister/sandbox/guestapi"
)

// calls are those of the Task API on container c, which a test brings into a state.
func (w *world) calls() map[string]func(context.Context) error {
	c := Ref{Container: "c"}
	return map[string]func(context.Context) error{
		"create": func(ctx context.Context) error { _, err := w.r.Create(ctx, w.request("c", nil)); return err },
		"start":  func(ctx context.Context) error { _, err := w.r.Start(ctx, c); return err },
		"exec":   func(ctx context.Context) error { return w.r.Exec(ctx, w.execRequest("c", "e")) },
		"pause":  func(ctx context.Context) error { return w.r.Pause(ctx, "c") },
		"resume": func(ctx context.Context) error { return w.r.Resume(ctx, "c") },
		"kill":   func(ctx context.Context) error { return w.r.Kill(ctx, c, 9, false) },
		"delete": func(ctx context.Context) error { _, _, err := w.r.Delete(ctx, c); return err },
		"stats":  func(ctx context.Context) error { _, err := w.r.Stats(ctx, "c"); return err },
		"update": func(ctx context.Context) error { return w.r.Update(ctx, "c", []byte(`{"pids":{"limit":10}}`)) },
		"resize": func(ctx context.Context) error { return w.r.ResizePty(ctx, c, 80, 25) },
		"state":  func(context.Context) error { _, err := w.r.State(c); return err },
		"pids":   func(context.Context) error { _, err := w.r.Pids("c"); return err },
		"stdin":  func(ctx context.Context) error { return w.r.CloseStdin(ctx, c) },
	}
}

// bring makes c and brings it into a state; Deleted makes none.
func (w *world) bring(to State) {
	w.t.Helper()
	if to == Deleted {
		return
	}
	w.create("c")
	if to == Created {
		return
	}
	_, err := w.r.Start(w.t.Context(), Ref{Container: "c"})
	w.must(err)
	switch to {
	case Paused:
		w.must(w.r.Pause(w.t.Context(), "c"))
	case Stopped:
		w.exit(Ref{Container: "c"}, 1)
		_, err := w.r.Wait(w.t.Context(), Ref{Container: "c"})
		w.must(err)
	case Created, Running, Deleted:
	}
}

// TestEveryCallInEveryState wants each call's class of error in each state, as runc's users know
// it.
func TestEveryCallInEveryState(t *testing.T) {
	precondition, missing, exists := errdefs.ErrFailedPrecondition, errdefs.ErrNotFound, errdefs.ErrAlreadyExists
	wants := map[State]map[string]error{
		Created: {"create": exists, "exec": precondition, "pause": precondition, "resume": precondition},
		Running: {"create": exists, "start": precondition, "resume": precondition, "delete": precondition},
		Paused:  {"create": exists, "start": precondition, "exec": precondition, "pause": precondition, "delete": precondition},
		Stopped: {
			"create": exists, "start": precondition, "exec": precondition, "pause": precondition,
			"resume": precondition, "kill": missing,
		},
		Deleted: {
			"start": missing, "exec": missing, "pause": missing, "resume": missing, "kill": missing, "delete": missing, "stats": missing,
			"update": missing, "resize": missing, "state": missing, "pids": missing, "stdin": missing,
		},
	}
	for state, want := range wants {
		for name := range new(world).calls() {
			w := newWorld(t)
			w.bring(state)
			if err := w.calls()[name](t.Context()); !errors.Is(err, want[name]) {
				t.Errorf("%s of a container that is %s = %v, want %v", name, state, err, want[name])
			}
		}
	}
}

// TestEveryPairOfConcurrentCalls makes each pair of calls at once in each state: both return,
// events keep their order, and the container can be taken away.
func TestEveryPairOfConcurrentCalls(t *testing.T) {
	for state := Created; state <= Deleted; state++ {
		for first := range new(world).calls() {
			for second := range new(world).calls() {
				w := newWorld(t)
				w.bring(state)
				var both sync.WaitGroup
				for _, name := range []string{first, second} {
					both.Go(func() { _ = w.calls()[name](t.Context()) })
				}
				both.Wait()
				if state, err := w.r.State(Ref{Container: "c"}); err == nil {
					if state.State != Created {
						if err := w.r.Kill(t.Context(), Ref{Container: "c"}, 9, false); err != nil && !errdefs.IsNotFound(err) {
							t.Errorf("%s: %s and %s: kill: %v", state.State, first, second, err)
						}
						_, err := w.r.Wait(t.Context(), Ref{Container: "c"})
						w.must(err)
					}
					if _, _, err := w.r.Delete(t.Context(), Ref{Container: "c"}); err != nil {
						t.Errorf("%s: %s and %s: delete: %v", state.State, first, second, err)
					}
				}
				w.contract(w.took())
				w.nothingLeft()
				if t.Failed() {
					t.Fatalf("%s: %s and %s", state, first, second)
				}
			}
		}
	}
}

// TestGuestFloodsEvents has a guest lie: exits without end of one process, of processes that never
// started and of none, and OOMs. One exit is published, one OOM a second, and nothing is kept.
func TestGuestFloodsEvents(t *testing.T) {
	w := newWorld(t)
	w.run("c")
	w.must(w.r.Exec(t.Context(), w.execRequest("c", "waiting")))
	w.must(w.exec("c", "e"))
	w.took()
	const many = 20_000
	begin := time.Now()
	for range many {
		w.tell(Ref{"c", "e"}, 7)
		w.tell(Ref{"c", "waiting"}, 7)
		w.tell(Ref{"c", "unknown"}, 7)
		w.tell(Ref{Container: "unknown"}, 7)
		w.events <- guestapi.Event{Topic: "/tasks/oom", Body: &eventsapi.TaskOOM{ContainerID: "c"}}
		w.events <- guestapi.Event{Topic: "/tasks/oom", Body: &eventsapi.TaskOOM{ContainerID: "unknown"}}
	}
	took := time.Since(begin)
	if e, err := w.r.Wait(t.Context(), Ref{"c", "e"}); err != nil || e.Status != 7 {
		t.Errorf("Wait = %+v, %v", e, err)
	}
	counts := map[string]int{}
	for _, s := range w.took() {
		counts[s]++
	}
	if n, most := counts["event oom c"], int(took/oomInterval)+2; n < 1 || n > most {
		t.Errorf("%d TaskOOM in %s, want 1 to %d", n, took, most)
	}
	delete(counts, "event oom c")
	if counts["event exit c/e 7"] != 1 || len(counts) != 1 {
		t.Errorf("published: %v, want one exit", counts)
	}
	if state, err := w.r.State(Ref{"c", "waiting"}); err != nil || state.State != Created {
		t.Errorf("an exec that was not started is %s, %v", state.State, err)
	}
}

// TestDyingMachineEndsItsOwnContainersOnly has the end of one machine be noticed when the next one
// runs already.
func TestDyingMachineEndsItsOwnContainersOnly(t *testing.T) {
	for range 100 {
		w := newWorld(t)
		w.create("c")
		_, _, err := w.r.Delete(t.Context(), Ref{Container: "c"})
		w.must(err)
		w.run("c")
		if state, err := w.r.State(Ref{Container: "c"}); err != nil || state.State != Running {
			t.Fatalf("the next container is %s, %v", state.State, err)
		}
	}
}

// TestMachineDiesDuringCreate wants an exit of a container whose machine has died before Create
// has returned.
func TestMachineDiesDuringCreate(t *testing.T) {
	w := newWorld(t)
	w.do("event create c", func() error { w.die(); return nil })
	w.create("c")
	if e, err := w.r.Wait(t.Context(), Ref{Container: "c"}); err != nil || e.Status != exitGuestDied {
		t.Errorf("Wait = %+v, %v", e, err)
	}
}
