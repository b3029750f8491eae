// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// NameServer is where engines have the name server of a namespace: loopback, by
// rules that lead port 53 to the engine.
const NameServer = "127.0.0.11"

// nameLimit is longer than an engine's own tries at several servers. After it the guest's resolver
// has given the question up, and the slot is free for another.
const nameLimit = 20 * time.Second

// AskName puts a DNS message to the name server in the namespace and gives its answer, or none.
// Nothing else can be reached by it. It may be called by several goroutines at once. The question
// is the guest's: the bytes go on as they are, and 127.0.0.11 of this namespace is all that they
// can reach. The caller bounds its length; no answer at all is what the guest sees as a server that
// is silent.
func (n *Namespace) AskName(ctx context.Context, tcp bool, question []byte) []byte {
	ctx, cancel := context.WithTimeout(ctx, nameLimit)
	defer cancel()
	conn, err := n.dialNames(ctx, tcp)
	if err != nil {
		return nil // no engine answers there, as the guest would find without us
	}
	defer conn.Close()
	if deadline, ok := ctx.Deadline(); ok {
		_ = conn.SetDeadline(deadline)
	}
	// The deadline ends a read in time; this ends it when the sandbox does.
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	if !tcp {
		return askDatagram(conn, question)
	}
	return askStream(conn, question)
}

// dialNames opens a connected socket in the namespace. Each one takes a thread that is never used
// again: without the bound, a guest that asks in a loop makes threads of the shim without end.
func (n *Namespace) dialNames(ctx context.Context, tcp bool) (conn net.Conn, err error) {
	select {
	case n.dials <- struct{}{}:
		defer func() { <-n.dials }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	transport := "udp"
	if tcp {
		transport = "tcp"
	}
	err = n.do(func() (err error) {
		conn, err = (&net.Dialer{}).DialContext(ctx, transport, net.JoinHostPort(NameServer, "53"))
		return err
	})
	return conn, err
}

// askDatagram takes memory for the answer once its size is known: many questions wait at once. A
// guest may have 256 questions open, and 64 KiB for each would be 16 MiB of the shim.
func askDatagram(conn net.Conn, question []byte) (answer []byte) {
	if _, err := conn.Write(question); err != nil {
		return nil
	}
	raw, err := conn.(*net.UDPConn).SyscallConn() //nolint:forcetypeassert // dialled over UDP
	if err != nil {
		return nil
	}
	var size int
	peek := func(fd uintptr) bool {
		// MSG_TRUNC gives the datagram's whole length, MSG_PEEK leaves it in the queue.
		size, _, err = unix.Recvfrom(int(fd), nil, unix.MSG_PEEK|unix.MSG_TRUNC)
		return !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EINTR)
	}
	if cause := raw.Read(peek); cause != nil || err != nil {
		return nil
	}
	answer = make([]byte, size)
	size, err = conn.Read(answer)
	if err != nil {
		return nil
	}
	return answer[:size]
}

// askStream frames messages by their length (RFC 1035, 4.2.2). The length is two bytes, so an
// answer is 64 KiB at most.
func askStream(conn net.Conn, question []byte) []byte {
	frame := binary.BigEndian.AppendUint16(nil, uint16(len(question)))
	if _, err := conn.Write(append(frame, question...)); err != nil {
		return nil
	}
	var length [2]byte
	if _, err := io.ReadFull(conn, length[:]); err != nil {
		return nil
	}
	answer := make([]byte, binary.BigEndian.Uint16(length[:]))
	if _, err := io.ReadFull(conn, answer); err != nil {
		return nil
	}
	return answer
}

// AsksEngine reports whether a resolv.conf(5) names the engine's name server. Where it does not,
// the guest's questions go over the network like all its traffic, and no relay is needed.
func AsksEngine(resolvConf []byte) bool {
	for line := range strings.Lines(string(resolvConf)) {
		if f := strings.Fields(line); len(f) > 1 && f[0] == "nameserver" && f[1] == NameServer {
			return true
		}
	}
	return false
}
