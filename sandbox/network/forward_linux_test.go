// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"cloister/tests/testenv"
)

// inNamespace gives a new namespace whose loopback is up.
func inNamespace(t *testing.T) *Namespace {
	t.Helper()
	testenv.NeedRoot(t)
	n, err := Open("")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = n.Close() })
	h, err := netlink.NewHandleAt(netns.NsHandle(n.file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer h.Close()
	lo, err := h.LinkByName("lo")
	if err != nil {
		t.Fatal(err)
	}
	if err := h.LinkSetUp(lo); err != nil {
		t.Fatal(err)
	}
	return n
}

// dialIn connects inside the namespace.
func dialIn(t *testing.T, n *Namespace, address string) (*net.TCPConn, error) {
	t.Helper()
	var conn net.Conn
	err := n.do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(t.Context(), "tcp", address)
		return err
	})
	if err != nil {
		return nil, err
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn.(*net.TCPConn), nil
}

// half is a net.TCPConn as the guest's half of a connection.
type half struct{ *net.TCPConn }

// echoes gives a Dial whose far end says the port, then what it hears, then goes; port 9 refuses.
func echoes(t *testing.T) Dial {
	t.Helper()
	l, err := (&net.ListenConfig{}).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return func(ctx context.Context, port uint16) (Stream, error) {
		if port == 9 {
			return nil, errors.New("nobody listens there")
		}
		near, err := (&net.Dialer{}).DialContext(ctx, "tcp", l.Addr().String())
		if err != nil {
			return nil, err
		}
		far, err := l.Accept()
		if err != nil {
			return nil, err
		}
		go func() {
			defer far.Close()
			fmt.Fprintf(far, "%d:", port)
			_, _ = io.Copy(far, far)
		}()
		return half{near.(*net.TCPConn)}, nil
	}
}

func TestForward(t *testing.T) {
	n := inNamespace(t)
	f, err := n.Forward(t.Context(), echoes(t))
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct{ address, want string }{
		{"127.0.0.1:80", "80:hello"},
		{"127.0.0.1:65535", "65535:hello"},
		{"[::1]:8080", "8080:hello"},
	} {
		conn, err := dialIn(t, n, test.address)
		if err != nil {
			t.Errorf("dial %s: %v", test.address, err)
			continue
		}
		if _, err := conn.Write([]byte("hello")); err != nil {
			t.Error(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != test.want {
			t.Errorf("%s = %q, %v, want %q", test.address, got, err, test.want)
		}
	}
	// Only localhost is the guest's: an engine's name server listens on another address of the same
	// network.
	if _, err := dialIn(t, n, "127.0.0.11:53"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial 127.0.0.11:53 = %v, want refused", err)
	}
	// The reset may be there before the dialling end has looked at its connection.
	conn, err := dialIn(t, n, "127.0.0.1:9")
	if err == nil {
		_, err = io.ReadAll(conn)
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a port without a listener = %v, want reset", err)
	}
	if err := f.Close(); err != nil {
		t.Error(err)
	}
	if _, err := dialIn(t, n, "127.0.0.1:80"); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("dial after the end = %v, want refused", err)
	}
}

// TestForwardIsBounded has more clients than may be served at once: all are served in the end,
// never too many.
func TestForwardIsBounded(t *testing.T) {
	n := inNamespace(t)
	dial, most := echoes(t), make(chan struct{}, forwards)
	f, err := n.Forward(t.Context(), func(ctx context.Context, port uint16) (Stream, error) {
		select {
		case most <- struct{}{}:
		default:
			t.Errorf("more than %d at once", forwards)
		}
		s, err := dial(ctx, port)
		return leaving{s, most}, err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var conns []*net.TCPConn
	for range forwards + 16 {
		conn, err := dialIn(t, n, "127.0.0.1:80")
		if err != nil {
			t.Fatal(err)
		}
		conns = append(conns, conn)
	}
	for _, conn := range slices.Backward(conns[16:]) { // not the first: they hold their places until here
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
	}
	for i, conn := range conns {
		if i < 16 {
			_ = conn.CloseWrite()
		}
		if got, err := io.ReadAll(conn); err != nil || string(got) != "80:" {
			t.Errorf("connection %d = %q, %v", i, got, err)
		}
	}
}

// leaving gives its place back at the end.
type leaving struct {
	Stream
	most chan struct{}
}

func (l leaving) Close() error {
	select {
	case <-l.most:
	default:
	}
	return l.Stream.Close()
}
