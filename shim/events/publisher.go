// SPDX-License-Identifier: Apache-2.0

package events

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	eventsapi "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// forwardTimeout bounds one attempt. Waits between attempts double from firstRetry to lastRetry.
const (
	forwardTimeout = 5 * time.Second
	firstRetry     = 50 * time.Millisecond
	lastRetry      = time.Second
	maxRefusals    = 3 // of one event, by a containerd that answers
)

// Publisher is a connection to containerd's event service that is made anew when it breaks.
type Publisher struct {
	address, namespace string
	queue              *queue
	cancel             context.CancelFunc
	done               chan struct{}
}

// New returns a Publisher for the service at address, a path or a unix:// URI. With an empty
// address there is nobody to tell, and events are dropped. ctx gives the logger; it does not end
// the Publisher, Close does.
func New(ctx context.Context, address, namespace string) *Publisher {
	ctx, cancel := context.WithCancel(namespaces.WithNamespace(context.WithoutCancel(ctx), namespace))
	p := &Publisher{
		address:   strings.TrimPrefix(address, "unix://"),
		namespace: namespace,
		queue:     newQueue(),
		cancel:    cancel,
		done:      make(chan struct{}),
	}
	go p.send(ctx)
	return p
}

// Publish queues one of containerd's task events, such as *events.TaskCreate. It does not wait. The
// error is about the event, or says that the Publisher is closed; never about containerd.
func (p *Publisher) Publish(ctx context.Context, event any) error {
	topic, err := topicOf(event)
	if err != nil {
		return err
	}
	value, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		return fmt.Errorf("event %s: %w", topic, err)
	}
	dropped, ok := p.queue.push(&types.Envelope{
		Timestamp: timestamppb.Now(),
		Namespace: p.namespace,
		Topic:     topic,
		Event:     value,
	})
	if !ok {
		return fmt.Errorf("event %s: %w", topic, net.ErrClosed)
	}
	if dropped != nil {
		log.G(ctx).WithField("topic", dropped.GetTopic()).Warn("event dropped: containerd accepts no events and the queue is full")
	}
	return nil
}

// Close sends what is queued, for as long as ctx lasts, and ends the Publisher. The error says how
// many events were not sent. The daemon calls it last: an exit that is still queued would be lost
// with it.
func (p *Publisher) Close(ctx context.Context) error {
	p.queue.close()
	select {
	case <-p.done:
	case <-ctx.Done():
		p.cancel()
		<-p.done
	}
	p.cancel()
	if n := p.queue.len(); n > 0 {
		return fmt.Errorf("%d events were not sent: %w", n, ctx.Err())
	}
	return nil
}

// send is the one goroutine that talks to containerd: an event leaves the queue when it is
// delivered or given up.
func (p *Publisher) send(ctx context.Context) {
	defer close(p.done)
	c := &connection{address: p.address}
	defer func() { _ = c.close() }()
	for {
		e, closed := p.queue.front()
		switch {
		// It leaves the queue only when it is delivered: a daemon that is stopped in between still
		// counts it.
		case e != nil:
			if !p.deliver(ctx, c, e) {
				return
			}
			p.queue.pop()
		case closed:
			return
		default:
			select {
			case <-p.queue.wake:
			case <-ctx.Done():
				return
			}
		}
	}
}

// deliver sends one event, however long containerd is away; false when ctx has ended first. No
// later event is sent meanwhile, which keeps the order.
func (p *Publisher) deliver(ctx context.Context, c *connection, e *types.Envelope) bool {
	if p.address == "" {
		return true
	}
	wait := firstRetry
	for refusals := 0; ; {
		err := c.forward(ctx, e)
		if err == nil {
			return true
		}
		if isRefusal(err) {
			// An event that is refused for what it is would keep all later ones waiting.
			if refusals++; refusals >= maxRefusals {
				log.G(ctx).WithError(err).WithField("topic", e.GetTopic()).Error("event dropped: containerd has refused it")
				return true
			}
		} else if wait == firstRetry {
			log.G(ctx).WithError(err).WithField("topic", e.GetTopic()).Debug("event waits for containerd")
		}
		select {
		case <-ctx.Done():
			return false
		case <-time.After(wait):
		}
		wait = min(2*wait, lastRetry)
	}
}

// isRefusal tells an answer about the event from everything that means containerd is away, starting
// or busy.
func isRefusal(err error) bool {
	switch status.Code(err) { //nolint:exhaustive // every other code says something about containerd, not about the event
	case codes.InvalidArgument, codes.FailedPrecondition, codes.PermissionDenied, codes.OutOfRange, codes.AlreadyExists, codes.NotFound:
		return true
	}
	return false
}

// connection is a client that dials when it has to.
type connection struct {
	address string
	client  *ttrpc.Client
}

// forward makes one attempt. A connection that containerd's restart has broken is noticed by the
// first use of it only, so that use is repeated at once on a new one.
func (c *connection) forward(ctx context.Context, e *types.Envelope) error {
	ctx, cancel := context.WithTimeout(ctx, forwardTimeout)
	defer cancel()
	old := c.client != nil
	err := c.try(ctx, e)
	if old && errors.Is(err, ttrpc.ErrClosed) {
		// containerd was restarted since the last event.
		return c.try(ctx, e)
	}
	return err
}

// try dials if need be and sends. After any error but a refusal the connection is closed: it may be
// one on which an answer is still to come.
func (c *connection) try(ctx context.Context, e *types.Envelope) error {
	if c.client == nil {
		conn, err := (&net.Dialer{}).DialContext(ctx, "unix", c.address)
		if err != nil {
			return err
		}
		c.client = ttrpc.NewClient(conn)
	}
	_, err := eventsapi.NewTTRPCEventsClient(c.client).Forward(ctx, &eventsapi.ForwardRequest{Envelope: e})
	if err != nil && !isRefusal(err) {
		return errors.Join(err, c.close())
	}
	return err
}

// close may be repeated; the next try dials.
func (c *connection) close() error {
	if c.client == nil {
		return nil
	}
	err := c.client.Close()
	c.client = nil
	return err
}
