// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/containerd/containerd/api/events"
	"google.golang.org/protobuf/proto"

	guestv1 "cloister/sandbox/guestapi/v1"
)

const (
	// MaxEvents is how many events one answer may hold.
	MaxEvents = 64
	// MaxEventBytes bounds one event.
	MaxEventBytes = 64 << 10

	eventsWaitMs = 60_000
	googlePrefix = "type.googleapis.com/"
)

// Event is something that happened to a container in the guest. Its ids are what the guest says
// they are: the receiver checks that it knows them. Only exits and lack of memory are taken from a
// guest; it could say of all else what the host has not asked for.
type Event struct {
	Time  time.Time
	Topic string
	// Body is one of containerd's task events, by pointer.
	Body proto.Message
}

// Events calls handle for each event in order, until ctx or the session ends or handle returns an
// error, and returns why. One caller at a time. The call waits in the guest for up to a minute, so
// no event is polled for. Numbers without a gap show that none was lost between two calls.
func (c *Client) Events(ctx context.Context, handle func(Event) error) error {
	guest := c.Guest()
	var last uint64
	for {
		resp, err := guest.Events(ctx, &guestv1.EventsRequest{After: last, WaitMs: eventsWaitMs})
		if err != nil {
			return fmt.Errorf("wait for the guest's events: %w", err)
		}
		if n := len(resp.GetEvents()); n > MaxEvents {
			return c.violation(fmt.Errorf("%w: %d events at once", ErrProtocol, n))
		}
		for _, e := range resp.GetEvents() {
			if e.GetSeq() != last+1 {
				return c.violation(fmt.Errorf("%w: event %d after %d", ErrProtocol, e.GetSeq(), last))
			}
			last++
			event, err := decodeEvent(e)
			if err != nil {
				return c.violation(err)
			}
			if err := handle(event); err != nil {
				return err
			}
		}
	}
}

// violation ends the session: nothing else that such a guest says can be believed.
func (c *Client) violation(err error) error {
	c.end(err)
	return err
}

// newEventBody makes an empty message for a topic. Topic and type go together; there are no others.
// A fixed list: containerd's typeurl would look any type up that is linked in, and so let a guest
// choose which code decodes its bytes.
func newEventBody(topic string) proto.Message {
	switch topic {
	case "/tasks/create":
		return &events.TaskCreate{}
	case "/tasks/start":
		return &events.TaskStart{}
	case "/tasks/exit":
		return &events.TaskExit{}
	case "/tasks/delete":
		return &events.TaskDelete{}
	case "/tasks/exec-added":
		return &events.TaskExecAdded{}
	case "/tasks/exec-started":
		return &events.TaskExecStarted{}
	case "/tasks/oom":
		return &events.TaskOOM{}
	case "/tasks/paused":
		return &events.TaskPaused{}
	case "/tasks/resumed":
		return &events.TaskResumed{}
	}
	return nil
}

// decodeEvent checks topic, type and size before it decodes. Unknown fields are dropped, so they
// take no memory and reach nobody.
func decodeEvent(e *guestv1.Event) (Event, error) {
	body := newEventBody(e.GetTopic())
	if body == nil {
		return Event{}, fmt.Errorf("%w: event of topic %q", ErrProtocol, Text(e.GetTopic(), maxToken))
	}
	name := strings.TrimPrefix(e.GetEvent().GetTypeUrl(), googlePrefix)
	if want := body.ProtoReflect().Descriptor().FullName(); name != string(want) {
		return Event{}, fmt.Errorf("%w: event of type %q for topic %s", ErrProtocol, Text(name, maxToken), e.GetTopic())
	}
	value := e.GetEvent().GetValue()
	if len(value) > MaxEventBytes {
		return Event{}, fmt.Errorf("%w: event of %d bytes", ErrProtocol, len(value))
	}
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(value, body); err != nil {
		return Event{}, fmt.Errorf("%w: event of topic %s: %w", ErrProtocol, e.GetTopic(), err)
	}
	return Event{Time: time.Unix(0, e.GetTimeUnixNano()), Topic: e.GetTopic(), Body: body}, nil
}
