// SPDX-License-Identifier: Apache-2.0

package events

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"

	"cloister/sandbox/guestapi"
)

func publish(t *testing.T, q *Queue, n int) {
	t.Helper()
	for range n {
		if err := q.Publish(t.Context(), "/tasks/oom", &events.TaskOOM{ContainerID: "c"}); err != nil {
			t.Error(err)
		}
	}
}

func TestPollGivesEventsInOrderAndForgets(t *testing.T) {
	q := New()
	publish(t, q, guestapi.MaxEvents+3)
	var last uint64
	for _, want := range []int{guestapi.MaxEvents, 3} {
		list, err := q.Poll(t.Context(), last, time.Minute)
		if err != nil || len(list) != want {
			t.Fatalf("Poll(%d) = %d events, %v, want %d", last, len(list), err, want)
		}
		for _, e := range list {
			if e.GetSeq() != last+1 || e.GetTopic() != "/tasks/oom" || e.GetEvent().GetTypeUrl() != "containerd.events.TaskOOM" {
				t.Errorf("after %d: %v", last, e)
			}
			last++
		}
	}
	// An answer may be lost on its way: what was not acknowledged comes again.
	if list, err := q.Poll(t.Context(), last-1, time.Minute); err != nil || len(list) != 1 || list[0].GetSeq() != last {
		t.Errorf("Poll(%d) = %v, %v", last-1, list, err)
	}
	if _, err := q.Poll(t.Context(), last+1, time.Minute); !errors.Is(err, errdefs.ErrOutOfRange) {
		t.Errorf("Poll(%d) = %v, want %v", last+1, err, errdefs.ErrOutOfRange)
	}
}

func TestPollWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New()
		if list, err := q.Poll(t.Context(), 0, time.Hour); list != nil || err != nil {
			t.Errorf("Poll without events = %v, %v", list, err)
		}
		go publish(t, q, 1)
		if list, err := q.Poll(t.Context(), 0, time.Hour); len(list) != 1 || err != nil {
			t.Errorf("Poll = %v, %v", list, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := q.Poll(ctx, 1, time.Hour); !errors.Is(err, context.Canceled) {
			t.Errorf("Poll = %v, want %v", err, context.Canceled)
		}
	})
}

func TestPublishWaitsWhileTheQueueIsFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := New()
		publish(t, q, limit)
		published := make(chan struct{})
		go func() {
			publish(t, q, 1)
			close(published)
		}()
		synctest.Wait()
		select {
		case <-published:
			t.Fatalf("event %d was taken", limit+1)
		default:
		}
		if _, err := q.Poll(t.Context(), 1, time.Minute); err != nil {
			t.Fatal(err)
		}
		<-published
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if err := q.Publish(ctx, "/tasks/oom", &events.TaskOOM{}); !errors.Is(err, context.Canceled) {
			t.Errorf("Publish = %v, want %v", err, context.Canceled)
		}
	})
}
