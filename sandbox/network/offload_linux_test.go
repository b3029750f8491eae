// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"os"
	"testing"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

// header is virtio's, which stands before each frame on a tap (struct virtio_net_hdr). A QEMU that
// was taken over writes what it wants there.
type header struct {
	Flags, Type                       uint8
	Length, Size, SumStart, SumOffset uint16
}

// frame is a broadcast of the attacker's with that type, and inside a packet of IPv4 that is longer
// than the link's MTU. ttl tells frames apart.
func (h header) frame(kind uint16, protocol, ttl byte) []byte {
	ip := make([]byte, 20+20+3000)
	ip[0], ip[8], ip[9] = 0x45, ttl, protocol
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[20+12] = 5 << 4 // TCP's own length
	b := new(bytes.Buffer)
	_ = binary.Write(b, binary.NativeEndian, h)
	b.Write([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	b.Write(attackersMAC())
	_ = binary.Write(b, binary.BigEndian, kind)
	b.Write(ip)
	return b.Bytes()
}

func attackersMAC() []byte { return []byte{2, 0x66, 0x66, 0x66, 0x66, 0x66} }

// ends is a tap that is redirected to a link, and a socket at the link's other end.
func ends(t *testing.T) (tap *os.File, socket int) {
	t.Helper()
	b := &bench{n: inNamespace(t), t: t}
	tap, err := b.n.NewTap("02:00:00:00:00:00")
	b.must(err)
	t.Cleanup(func() { _ = tap.Close() })
	b.Handle, err = netlink.NewHandleAt(netns.NsHandle(b.n.file.Fd()), unix.NETLINK_ROUTE)
	b.must(err)
	t.Cleanup(b.Close)
	far, err := Open("")
	b.must(err)
	t.Cleanup(func() { _ = far.Close() })
	b.add(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "peer", PeerNamespace: netlink.NsFd(int(far.file.Fd()))}, 1)
	b.must(far.do(func() error {
		peer, err := netlink.LinkByName("peer")
		if err != nil {
			return err
		}
		const all = unix.ETH_P_ALL<<8&0xff00 | unix.ETH_P_ALL>>8 // in network order
		socket, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, all)
		return errors.Join(err, netlink.LinkSetUp(peer))
	}))
	t.Cleanup(func() { _ = unix.Close(socket) })
	b.must(unix.SetsockoptTimeval(socket, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60}))
	_, left, err := b.n.Sync()
	b.must(errors.Join(append(left, err)...))
	return tap, socket
}

// TestMalformedOffloads writes frames to a tap whose headers ask the host's kernel for impossible
// segments and checksums. It takes none of them, or drops them: the link's other end gets none.
func TestMalformedOffloads(t *testing.T) {
	const sum, tcp4, tcp6, udp, udpL4 = 1, 1, 4, 3, 5
	tap, socket := ends(t)
	for _, tt := range []struct {
		name     string
		header   header
		kind     uint16
		protocol byte
		want     error // nil: it is dropped later
	}{
		{"segments of no known type", header{Type: 0x7f, Length: 54, Size: 1000}, unix.ETH_P_IP, unix.IPPROTO_TCP, unix.EINVAL},
		{"segments without a size", header{sum, tcp4, 54, 0, 34, 16}, unix.ETH_P_IP, unix.IPPROTO_TCP, unix.EINVAL},
		{"a headers' length beyond the frame", header{sum, tcp4, 0xffff, 1000, 34, 16}, unix.ETH_P_IP, unix.IPPROTO_TCP, unix.EINVAL},
		{"a sum that starts behind the frame", header{sum, 0, 0, 0, 0xfff0, 4}, unix.ETH_P_IP, unix.IPPROTO_TCP, unix.EINVAL},
		{"a sum that is put behind the frame", header{sum, 0, 0, 0, 34, 0xfff0}, unix.ETH_P_IP, unix.IPPROTO_TCP, unix.EINVAL},
		{"a sum that wraps around", header{sum, 0, 0, 0, 0xffff, 0xffff}, unix.ETH_P_IP, unix.IPPROTO_TCP, unix.EINVAL},
		{"segments of TCP in ARP", header{sum, tcp4, 54, 1000, 34, 16}, unix.ETH_P_ARP, unix.IPPROTO_TCP, nil},
		{"segments of TCP over IPv6 in IPv4", header{sum, tcp6, 74, 1000, 54, 16}, unix.ETH_P_IP, unix.IPPROTO_TCP, nil},
		{"segments of TCP in UDP", header{sum, tcp4, 54, 1000, 34, 16}, unix.ETH_P_IP, unix.IPPROTO_UDP, nil},
		{"segments of UDP in TCP", header{sum, udpL4, 42, 1000, 34, 6}, unix.ETH_P_IP, unix.IPPROTO_TCP, nil},
		{"fragments of UDP in TCP", header{sum, udp, 42, 1000, 34, 6}, unix.ETH_P_IP, unix.IPPROTO_TCP, nil},
	} {
		// Newer kernels refuse at once what older ones drop later.
		if _, err := tap.Write(tt.header.frame(tt.kind, tt.protocol, 0)); !errors.Is(err, unix.EINVAL) && (tt.want != nil || err != nil) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
	}
	const mark = 42
	if _, err := tap.Write(header{sum, tcp4, 54, 1000, 34, 16}.frame(unix.ETH_P_IP, unix.IPPROTO_TCP, mark)); err != nil {
		t.Errorf("the control, a well-formed header: %v", err)
	}
	for got := make([]byte, 1<<16); ; {
		n, _, err := unix.Recvfrom(socket, got, 0)
		if errors.Is(err, unix.EINTR) {
			continue // not by itself, since the socket has a time limit
		}
		if err != nil {
			t.Fatalf("the control has not arrived: %v", err)
		}
		if n < 34 || !bytes.Equal(got[6:12], attackersMAC()) {
			continue // the kernel's own
		}
		if got[14+8] == mark {
			return
		}
		t.Errorf("a frame with a malformed header has arrived: %d bytes, %x", n, got[:34])
	}
}
