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

// forwards bounds the connections at once; more wait in the listeners' queues. Each one has a
// stream to the guest, two goroutines and a descriptor of the shim.
const forwards = 64

// Stream is a connection's other half, in the guest.
type Stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Dial reaches a port of the guest's localhost. An error means that the guest refused, or that it
// is gone. The Stream is the caller's to close.
type Dial func(ctx context.Context, port uint16) (Stream, error)

// Forwarder carries connections to localhost of the namespace's host side into the guest. It is
// made by Namespace.Forward and ended by Close.
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
// namespace. ctx gives values alone: its end does not end the forwarder, which outlives the call
// that started the sandbox. A host whose kernel has no BPF_PROG_TYPE_SK_LOOKUP (Linux before 5.9)
// gives an error, and loses port-forward only.
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
		// The number of the descriptor is good as long as the listener is open, which is longer
		// than steer uses it.
		if err := raw.Control(func(fd uintptr) { slots[uint32(slot)] = int(fd) }); err != nil {
			return f, err
		}
	}
	// Last: from here on connections come, and the listeners are there for both families.
	if f.steering, err = n.steer(slots); err != nil {
		return f, err
	}
	for _, l := range f.listeners {
		f.loops.Go(func() { f.accept(ctx, l) })
	}
	return f, nil
}

// listen makes a listener inside the namespace; where it listens does not matter, it gets what is
// steered to it. A socket belongs to the namespace of the thread that makes it, and stays there.
func (n *Namespace) listen(ctx context.Context, address string) (*net.TCPListener, error) {
	var l net.Listener
	config := &net.ListenConfig{}
	// Go makes MPTCP sockets by default; a sockmap takes plain TCP sockets alone.
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

// Close takes no more connections and hangs up those that there are. The program goes first, so
// that no new connection is led to a listener that closes. Connections that are being carried end
// soon after, and are not waited for.
func (f *Forwarder) Close() error {
	f.cancel()
	errs := []error{f.steering.Close()}
	for _, l := range f.listeners {
		errs = append(errs, l.Close())
	}
	f.loops.Wait()
	return errors.Join(errs...)
}

// accept takes a slot before it takes a connection. What is above the bound waits in the kernel,
// where it costs the shim no descriptor.
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

// carry copies both ways until both have ended; each end is passed on. A half-close must get
// through: kubectl port-forward sends a request, closes its side, and reads the answer. That is why
// it is no guestapi.Relay: a client may also go on after the server has closed its side.
func (f *Forwarder) carry(ctx context.Context, conn *net.TCPConn) {
	defer func() { <-f.slots }()
	defer conn.Close()
	// The steered socket keeps the address that the client asked for: its port is the guest's port.
	to, err := netip.ParseAddrPort(conn.LocalAddr().String())
	if err != nil {
		return
	}
	stream, err := f.dial(ctx, to.Port())
	if err != nil {
		_ = conn.SetLinger(0) // nobody listens there: the client reads that its connection was reset
		return
	}
	// Both copies block in reads that no context ends.
	defer context.AfterFunc(ctx, func() { _, _ = conn.Close(), stream.Close() })()
	defer stream.Close()
	var up sync.WaitGroup
	up.Go(func() {
		_, _ = io.Copy(stream, conn)
		_ = stream.CloseWrite()
	})
	_, _ = io.Copy(conn, stream)
	_ = conn.CloseWrite()
	up.Wait()
}
