// SPDX-License-Identifier: Apache-2.0

package bed

import (
	"bufio"
	"encoding/json"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"cloister/tests/host"
)

// Event is one of containerd's about a task.
type Event struct {
	Topic      string `json:"-"` // without /tasks/
	Container  string `json:"container_id"`
	ID         string `json:"id"` // of an exit: the exec's, or the container's
	ExitStatus uint32 `json:"exit_status"`
}

// Watch gathers events until the test ends; the function it gives returns those so far.
func (b *Bed) Watch(t testing.TB) func() []Event {
	t.Helper()
	cmd := b.Ctr(t.Context(), "events")
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var events []Event
	subscribed, done := make(chan struct{}), make(chan struct{})
	t.Cleanup(func() {
		// Wait closes the pipe: the reader has to have seen its end before.
		_ = cmd.Cancel()
		<-done
		_ = cmd.Wait()
	})
	go func() {
		defer close(done)
		first := true
		for lines := bufio.NewScanner(out); lines.Scan(); {
			if first {
				close(subscribed)
				first = false
			}
			if e, ok := parseEvent(lines.Text()); ok {
				mu.Lock()
				events = append(events, e)
				mu.Unlock()
			}
		}
	}()
	// ctr says nothing when it has subscribed: make events until one is seen.
	if !Await(host.Patience, func() bool {
		b.Must(t, "namespaces", "label", b.Namespace, "probe="+time.Now().Format(time.RFC3339Nano))
		select {
		case <-subscribed:
			return true
		default:
			return false
		}
	}) {
		t.Fatal("no event")
	}
	return func() []Event {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(events)
	}
}

// parseEvent takes apart "date time zone zone namespace topic json".
func parseEvent(line string) (Event, bool) {
	head, body, ok := strings.Cut(line, " {")
	fields := strings.Fields(head)
	if !ok || len(fields) < 2 || !strings.HasPrefix(fields[len(fields)-1], "/tasks/") {
		return Event{}, false
	}
	e := Event{Topic: strings.TrimPrefix(fields[len(fields)-1], "/tasks/")}
	return e, json.Unmarshal([]byte("{"+body), &e) == nil
}
