// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// forwards bounds the connections at once; more wait in the listeners' queues.
const forwards = 64

// Stream is a connection's other half, in the guest.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Dial reaches a port of the guest's localhost.
type Dial func(ctx context.Context, port uint16) (Stream, error)

// Forwarder carries connections to localhost of the namespace's host side into the guest.
type Forwarder struct {
	dial      Dial
	listeners []*net.TCPListener
	steering  steering
	cancel    context.CancelFunc
	slots     chan struct{}
	loops     sync.WaitGroup
}

// Forward carries every TCP connection that somebody on the host makes inside the namespace to
// 127.0.0.1 or ::1, whatever the port, to what dial gives for that port, until Close: CRI's
// port-forward connects like that. Nothing is listened on that could be reached from outside of the
// namespace.
func (n *Namespace) Forward(ctx context.Context, dial Dial) (_ *Forwarder, err error) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f := &Forwarder{dial: dial, cancel: cancel, slots: make(chan struct{}, forwards)}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close())
		}
	}()
	slots := map[uint32]int{}
	for slot, address := range []string{slotIPv4: "127.0.0.1:0", slotIPv6: "[::1]:0"} {
		l, err := n.listen(ctx, address)
		if slot == slotIPv6 && (errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EADDRNOTAVAIL)) {
			continue // a host, or a namespace, without IPv6
		}
		if err != nil {
			return f, fmt.Errorf("listen on %s in the network namespace: %w", address, err)
		}
		f.listeners = append(f.listeners, l)
		raw, err := l.SyscallConn()
		if err != nil {
			return f, err
		}
		if err := raw.Control(func(fd uintptr) { slots[uint32(slot)] = int(fd) }); err != nil {
			return f, err
		}
	}
	if f.steering, err = n.steer(slots); err != nil {
		return f, err
	}
	for _, l := range f.listeners {
		f.loops.Go(func() { f.accept(ctx, l) })
	}
	return f, nil
}

// listen makes a listener inside the namespace; where it listens does not matter, it gets what is
// steered to it.
func (n *Namespace) listen(ctx context.Context, address string) (*net.TCPListener, error) {
	var l net.Listener
	config := &net.ListenConfig{}
	config.SetMultipathTCP(false) // such a socket cannot be steered to
	err := n.do(func() (err error) {
		l, err = config.Listen(ctx, "tcp", address)
		return err
	})
	if err != nil {
		return nil, err
	}
	return l.(*net.TCPListener), nil
}

// Close takes no more connections and hangs up those that there are.
func (f *Forwarder) Close() error {
	f.cancel()
	errs := []error{f.steering.Close()}
	for _, l := range f.listeners {
		errs = append(errs, l.Close())
	}
	f.loops.Wait()
	return errors.Join(errs...)
}

func (f *Forwarder) accept(ctx context.Context, l *net.TCPListener) {
	for {
		select {
		case f.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		conn, err := l.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil { // of one connection, or descriptors are short
			<-f.slots
			select {
			case <-time.After(100 * time.Millisecond):
			case <-ctx.Done():
			}
			continue
		}
		go f.carry(ctx, conn) // ends with the connection, at the latest with the guest's
	}
}

// carry copies both ways until both have ended; each end is passed on.
func (f *Forwarder) carry(ctx context.Context, conn *net.TCPConn) {
	defer func() { <-f.slots }()
	defer conn.Close()
	to, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return
	}
	stream, err := f.dial(ctx, to.Port())
	if err != nil {
		_ = conn.SetLinger(0) // nobody listens there: the client reads that its connection was reset
		return
	}
	defer context.AfterFunc(ctx, func() { _, _ = conn.Close(), stream.Close() })()
	defer stream.Close()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		_, _ = io.Copy(stream, conn)
		_ = stream.CloseWrite()
	}()
	_, _ = io.Copy(conn, stream)
	_ = conn.CloseWrite()
	<-sent
}
