// SPDX-License-Identifier: Apache-2.0

package guestapi

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/hashicorp/yamux"

	guestv1 "cloister/sandbox/guestapi/v1"
	"cloister/sys"
)

// errClosed is what ends a session that the host closed.
var errClosed = fmt.Errorf("guest connection is closed: %w", errdefs.ErrUnavailable)

// Client is the host's end of the connection with one guest.
//
// A call returns when its context ends, whatever the guest does. What the guest answers with an
// error has its errdefs class and a text that was cut. When the guest hangs up or breaks the
// contract, Done is closed, Err tells why, and everything that waits returns errdefs.ErrUnavailable
// or Err. A Client is made by NewClient and ends once; there is no second connection with the same
// guest.
type Client struct {
	guard   *frameGuard
	session *yamux.Session
	calls   *callGuard
	rpc     *ttrpc.Client
	slots   chan struct{}
	ended   chan struct{}
	waiting waiting
	machine Machine
}

// Machine is what the host knows of the machine that a guest runs in. Each function may be nil.
type Machine struct {
	// Starved tells for how long, in all, the guest has waited for a CPU of the host. It is asked
	// only about calls that take long.
	Starved func() time.Duration
	// Explain adds to an error of a call what is known of the machine's end.
	Explain func(error) error
	// Look says what can be seen from outside of a guest that does not answer: whether its CPUs
	// run, and its file server. It is asked once, before the session ends.
	Look func() string
}

// NewClient waits for the agent's preamble and opens the control stream. It takes conn over, and
// closes it when it returns an error. ctx bounds the preamble and the control stream, not the
// session. An agent of another protocol is errdefs.ErrFailedPrecondition.
func NewClient(ctx context.Context, conn net.Conn, machine Machine) (*Client, Hello, error) {
	hello, err := greet(ctx, conn)
	if err != nil {
		return nil, hello, errors.Join(err, conn.Close())
	}
	guard := &frameGuard{Conn: conn}
	// The guard is below yamux, so a frame that is refused never reaches its code.
	session, err := yamux.Client(&joiner{ReadWriteCloser: guard}, muxConfig())
	if err != nil {
		return nil, hello, errors.Join(err, conn.Close())
	}
	c := &Client{guard: guard, session: session, slots: make(chan struct{}, maxCalls), ended: make(chan struct{}), machine: machine}
	go c.awaitEnd()
	control, err := c.open(ctx, ControlStream)
	if err != nil {
		return nil, hello, errors.Join(fmt.Errorf("open control stream: %w", err), c.Close())
	}
	c.calls = &callGuard{Conn: control, violated: c.end, pending: map[uint32]struct{}{}}
	c.rpc = ttrpc.NewClient(c.calls, ttrpc.WithUnaryClientInterceptor(c.call), ttrpc.WithOnClose(c.controlClosed))
	return c, hello, nil
}

// greet reads the agent's preamble. The end of ctx sets a deadline, since a read of a connection
// knows no context.
func greet(ctx context.Context, conn net.Conn) (Hello, error) {
	expired := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		_ = conn.SetReadDeadline(time.Unix(1, 0)) // the read below returns
		close(expired)
	})
	hello, err := readHello(conn)
	// The context has ended. The deadline is set before greet returns, so that nothing touches conn
	// later.
	if !stop() {
		<-expired
		return hello, fmt.Errorf("wait for the agent's preamble: %w", context.Cause(ctx))
	}
	if err != nil {
		return hello, err
	}
	if hello.Protocol != Protocol {
		return hello, fmt.Errorf("agent %s speaks protocol %d, this host speaks %d: run: cloister guest build: %w",
			hello.AgentVersion, hello.Protocol, Protocol, errdefs.ErrFailedPrecondition)
	}
	return hello, nil
}

// Task is containerd's Task API in the guest.
func (c *Client) Task() taskapi.TTRPCTaskService { return taskapi.NewTTRPCTaskClient(c.rpc) }

// Guest is the agent's own service.
func (c *Client) Guest() guestv1.TTRPCGuestService { return guestv1.NewTTRPCGuestClient(c.rpc) }

// Done is closed when the session has ended.
func (c *Client) Done() <-chan struct{} { return c.ended }

// Err tells why the session ended, and is nil before Done is closed.
func (c *Client) Err() error {
	select {
	case <-c.ended:
	default:
		return nil
	}
	if reason := c.guard.reason.Load(); reason != nil {
		return *reason
	}
	return errClosed
}

// Close hangs up, which powers the guest off. It ends every stream and call. It returns at once.
// Done is closed a moment later.
func (c *Client) Close() error {
	c.end(errClosed)
	return nil
}

// end closes the channel for a reason; the first reason stays.
func (c *Client) end(reason error) {
	c.guard.end(reason)
	// The connection first: yamux waits for its loops, which hang in it.
	_ = c.guard.Close()
}

// controlClosed ends the session: without calls no container can be stopped.
func (c *Client) controlClosed() {
	c.end(fmt.Errorf("guest closed the control stream: %w", errdefs.ErrUnavailable))
}

// awaitEnd closes Done once yamux has ended, whatever ended it.
func (c *Client) awaitEnd() {
	<-c.session.CloseChan()
	// No stream can ever be accepted: this gives the error that yamux ended with.
	if _, err := c.session.AcceptStream(); err != nil && !errors.Is(err, yamux.ErrSessionShutdown) {
		c.guard.end(fmt.Errorf("%w: %w", ErrProtocol, err))
	}
	_ = c.session.Close()
	close(c.ended)
}

// Bounds of SetTime.
const (
	shortTrip = 40 * time.Millisecond // a call that tells the time with at most half of it as error
	timeTries = 5
)

// SetTime sets the guest's clock to the host's. A call takes a while to get there, so it is
// repeated until a round trip was short. A host on which none is short has half of the round trip
// before added.
func (c *Client) SetTime(ctx context.Context) error {
	return setTime(time.Now, func(t time.Time) error {
		_, err := c.Guest().SetTime(ctx, &guestv1.SetTimeRequest{TimeUnixNano: t.UnixNano()})
		return err
	})
}

// setTime is SetTime for any clock. The last try is not cut to shortTrip: on a host where every
// call is slow, half of a slow trip is the better guess.
func setTime(now func() time.Time, set func(time.Time) error) error {
	trip := time.Duration(0)
	for i := range timeTries {
		if i < timeTries-1 {
			trip = min(trip, shortTrip)
		}
		begin := now()
		if err := set(begin.Add(trip / 2)); err != nil {
			return err
		}
		if trip = now().Sub(begin); trip <= shortTrip {
			break
		}
	}
	return nil
}

// call is the one way of every call to the guest, and explains its errors.
func (c *Client) call(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, _ *ttrpc.UnaryClientInfo, invoke ttrpc.Invoker) error {
	err := c.try(ctx, req, resp, invoke)
	if err != nil && c.machine.Explain != nil {
		return c.machine.Explain(err)
	}
	return err
}

// try gives each call its context: ttrpc alone would wait for a guest that does not read.
func (c *Client) try(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, invoke ttrpc.Invoker) error {
	// Calls whose context has ended still wait here until the guest answers. A guest that answers
	// none could otherwise make this table grow without end.
	if c.calls.waiting() >= maxCalls {
		return fmt.Errorf("guest has not answered %d calls: %w", maxCalls, errdefs.ErrResourceExhausted)
	}
	select {
	case c.slots <- struct{}{}:
	default:
		return fmt.Errorf("%d calls to the guest at once: %w", maxCalls, errdefs.ErrResourceExhausted)
	}
	answer := make(chan error, 1)
	var got ttrpc.Response
	// On its own goroutine, and with a response of its own: the call may go on after try has
	// returned, and must not write into the caller's.
	go c.invoke(ctx, req, &got, invoke, answer)
	if err := c.answer(ctx, req.GetMethod(), answer); err != nil {
		return err
	}
	if got.GetStatus().GetCode() != 0 {
		return guestError(got.GetStatus())
	}
	resp.Payload = got.GetPayload()
	return nil
}

// answer waits for a call's end; a guest that says nothing for too long ends the session.
func (c *Client) answer(ctx context.Context, method string, answer <-chan error) error {
	silence := sys.NewWatchdog(maxSilence/2, maxSilence/2, silenceCap*maxSilence, c.machine.Starved)
	defer silence.Stop()
	if endless(method) {
		silence.Stop()
	}
	defer c.waiting.add(method)()
	for {
		select {
		case err := <-answer:
			if err != nil {
				return c.callError(ctx, method, err)
			}
			return nil
		case <-ctx.Done():
			// The answer may still come. What the guest has then done is for the caller to find
			// out.
			return unanswered(ctx, method)
		case <-silence.C:
		}
		if _, _, over := silence.Over(); over {
			err := fmt.Errorf("%w: %s", ErrSilent, c.waiting.text(time.Now()))
			if c.machine.Look != nil {
				err = fmt.Errorf("%w; %s", err, c.machine.Look())
			}
			c.end(err)
			return err
		}
	}
}

// invoke gives its slot back only when the call is over, so slots bound the goroutines.
func (c *Client) invoke(ctx context.Context, req *ttrpc.Request, resp *ttrpc.Response, invoke ttrpc.Invoker, answer chan<- error) {
	answer <- invoke(ctx, req, resp)
	<-c.slots
}

// callError is for calls that got no answer.
func (c *Client) callError(ctx context.Context, method string, err error) error {
	if ctx.Err() != nil {
		return unanswered(ctx, method)
	}
	// The request was too large for ttrpc and never left: the session is unharmed.
	if _, ok := errors.AsType[*ttrpc.OversizedMessageErr](err); ok {
		return fmt.Errorf("call the guest: %w: %w", errdefs.ErrResourceExhausted, err)
	}
	if reason := c.guard.reason.Load(); reason != nil {
		err = *reason
	}
	return fmt.Errorf("call the guest: %w: %w", errdefs.ErrUnavailable, err)
}

// unanswered names the call that a context ended, since its own error names nothing.
func unanswered(ctx context.Context, method string) error {
	return fmt.Errorf("wait for the guest's answer to %s: %w", method, ctx.Err())
}
