// SPDX-License-Identifier: Apache-2.0

package host

import (
	"encoding/binary"
	"errors"
	"net"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// SendFrame sends an Ethernet frame by a link of the place.
func (p *Place) SendFrame(t testing.TB, link string, frame []byte) {
	t.Helper()
	_, err := inside(p.PID(), func() (struct{}, error) { return struct{}{}, sendFrame(link, frame) })
	if err != nil {
		t.Fatalf("send a frame by %s in the place: %v", link, err)
	}
}

func sendFrame(link string, frame []byte) error {
	device, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: device.Index}), unix.Close(fd))
}

// Advertisement is a frame to all nodes in which fe80::66 says that it is the default router, with
// the prefix fd66::/64 (RFC 4861, 4.2).
func Advertisement() []byte {
	source, all := netip.MustParseAddr("fe80::66").As16(), netip.MustParseAddr("ff02::1").As16()
	prefix := netip.MustParseAddr("fd66::").As16()
	message := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}    // hop limit 64, for 1,800 s
	message = append(message, 3, 4, 64, 0xc0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) // prefix information: on link, autonomous
	message = append(message, prefix[:]...)
	pseudo := append(append(append([]byte{}, source[:]...), all[:]...), 0, 0, 0, byte(len(message)), 0, 0, 0, 58)
	sum := uint32(0)
	for sent := append(pseudo, message...); len(sent) > 0; sent = sent[2:] {
		sum += uint32(binary.BigEndian.Uint16(sent))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(message[2:], ^uint16(sum))
	frame := []byte{0x33, 0x33, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 0x66, 0x86, 0xdd}
	frame = append(frame, 0x60, 0, 0, 0, 0, byte(len(message)), 58, 255)
	frame = append(append(frame, source[:]...), all[:]...)
	return append(frame, message...)
}
