// SPDX-License-Identifier: Apache-2.0

package runtime

import (
	"context"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/google/go-cmp/cmp"

	"cloister/runtime/stdio"
)

// history is what clients are told, in order.
type history struct {
	mu    sync.Mutex
	lines []string
}

func (h *history) add(line string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.lines = append(h.lines, line)
}

func (h *history) process(ref Ref) *process {
	return newProcess(ref, stdio.Config{}, func(ref Ref, _ Exited) { h.add("exit " + ref.String()) })
}

func TestExitIsReportedAfterStart(t *testing.T) {
	var h history
	p := h.process(Ref{Container: "c"})
	err := p.start(func() error {
		p.exited(Exited{Status: 3, At: time.Unix(1, 0)}) // overtakes the answer
		if state, _ := p.snapshot(); state != Created {
			t.Errorf("state during start = %s, want created", state)
		}
		return nil
	}, func() { h.add("start c") })
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"start c", "exit c"}, h.lines); diff != "" {
		t.Errorf("events (-want +got):\n%s", diff)
	}
	if e, err := p.wait(t.Context()); err != nil || e.Status != 3 {
		t.Errorf("wait = %+v, %v, want status 3", e, err)
	}
}

func TestFailedStart(t *testing.T) {
	broken := errors.New("broken")
	for _, test := range []struct {
		ref  Ref
		want State
	}{
		{Ref{Container: "c"}, Created},            // may be tried again, or deleted
		{Ref{Container: "c", Exec: "e"}, Stopped}, // over: nothing waits for it for ever
	} {
		var h history
		p := h.process(test.ref)
		if err := p.start(func() error { return broken }, func() { h.add("start") }); !errors.Is(err, broken) {
			t.Errorf("start(%s) = %v, want %v", test.ref, err, broken)
		}
		if state, _ := p.snapshot(); state != test.want {
			t.Errorf("start(%s) that fails leaves %s, want %s", test.ref, state, test.want)
		}
	}
}

func TestSecondStartIsRefused(t *testing.T) {
	var h history
	p := h.process(Ref{Container: "c"})
	err := p.start(func() error {
		if err := p.start(func() error { t.Error("called"); return nil }, func() {}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
			t.Errorf("second start = %v, want failed precondition", err)
		}
		return nil
	}, func() {})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.start(func() error { return nil }, func() {}); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("start of a running process = %v, want failed precondition", err)
	}
}

func TestExitIsReportedOnce(t *testing.T) {
	var h history
	p := h.process(Ref{Container: "c"})
	for status := range uint32(3) {
		p.exited(Exited{Status: status})
	}
	if _, e := p.snapshot(); e.Status != 0 || len(h.lines) != 1 {
		t.Errorf("exit = %+v reported %d times, want the first one once", e, len(h.lines))
	}
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h history
		p := h.process(Ref{Container: "c"})
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if _, err := p.wait(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("wait = %v, want deadline exceeded", err)
		}
	})
}

func TestSettled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var h history
		p, answer := h.process(Ref{Container: "c", Exec: "e"}), make(chan struct{})
		go func() { _ = p.start(func() error { <-answer; return nil }, func() {}) }()
		synctest.Wait()
		impatient, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := p.settled(impatient); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("during the start: %v, want %v", err, context.DeadlineExceeded)
		}
		time.AfterFunc(time.Minute, func() { close(answer) })
		if err := p.settled(t.Context()); err != nil {
			t.Error(err)
		}
		if state, _ := p.snapshot(); state != Running {
			t.Errorf("after it: %s, want %s", state, Running)
		}
	})
}
