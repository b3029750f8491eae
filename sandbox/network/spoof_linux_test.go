// SPDX-License-Identifier: Apache-2.0

package network

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"testing"

	"golang.org/x/sys/unix"
)

// ethernet is a frame from the attacker's MAC.
func ethernet(to net.HardwareAddr, kind uint16, payload ...[]byte) []byte {
	head := binary.BigEndian.AppendUint16(append(bytes.Clone(to), attackersMAC()...), kind)
	return append(head, bytes.Join(payload, nil)...)
}

// advertisement is a packet of ICMPv6 from an address to all nodes.
func advertisement(from net.IP, kind byte, rest []byte) []byte {
	all := net.ParseIP("ff02::1")
	body := append([]byte{kind, 0, 0, 0}, rest...)
	pseudo := binary.BigEndian.AppendUint32(append(bytes.Clone(from), all...), uint32(len(body)))
	sum := uint32(0)
	for words := append(append(pseudo, 0, 0, 0, unix.IPPROTO_ICMPV6), body...); len(words) > 1; words = words[2:] {
		sum += uint32(binary.BigEndian.Uint16(words))
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	binary.BigEndian.PutUint16(body[2:], ^uint16(sum))
	head := binary.BigEndian.AppendUint16([]byte{6 << 4, 0, 0, 0}, uint16(len(body)))
	return bytes.Join([][]byte{head, {unix.IPPROTO_ICMPV6, 255}, from, all, body}, nil)
}

// TestOthersAddressesAreNotFiltered has a guest that is another one: it answers ARP and neighbour
// discovery for the gateway, offers addresses and routes, and sends from another's MAC and address.
// The documents say that nothing of cloister's stops that: the frames reach the other end of the
// engine's link as they were sent. Whoever adds a filter has to change the documents.
func TestOthersAddressesAreNotFiltered(t *testing.T) {
	tap, socket := ends(t) // the guest's own MAC is 02:00:00:00:00:00, its address 10.0.1.2
	everyone := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	nodes := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	gateway, other := net.IPv4(10, 0, 1, 1).To4(), net.IPv4(10, 0, 1, 9).To4()
	router := net.ParseIP("fe80::66")
	udp := func(from net.IP, source, target uint16) []byte {
		ip := []byte{0x45, 0, 0, 28 + 4, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
		head := binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(nil, source), target)
		return bytes.Join([][]byte{ip, from, {255, 255, 255, 255}, head, {0, 12, 0, 0}, []byte("evil")}, nil)
	}
	for _, tt := range []struct {
		name  string
		frame []byte
	}{
		{"an answer of ARP for the gateway", ethernet(everyone, unix.ETH_P_ARP,
			[]byte{0, 1, 8, 0, 6, 4, 0, 2}, attackersMAC(), gateway, everyone, gateway)},
		{"a neighbour advertisement for the gateway", ethernet(nodes, unix.ETH_P_IPV6,
			advertisement(router, 136, bytes.Join([][]byte{{0xa0, 0, 0, 0}, net.ParseIP("fd00::1"), {2, 1}, attackersMAC()}, nil)))},
		{"a router advertisement", ethernet(nodes, unix.ETH_P_IPV6,
			advertisement(router, 134, []byte{64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0}))},
		{"a server's message of DHCP", ethernet(everyone, unix.ETH_P_IP, udp(gateway, 67, 68))},
		{"a packet from another's address", ethernet(everyone, unix.ETH_P_IP, udp(other, 7, 7))},
	} {
		if _, err := tap.Write(append(make([]byte, 10), tt.frame...)); err != nil { // no offload is asked for
			t.Errorf("%s: the tap takes it not: %v", tt.name, err)
			continue
		}
		arrived(t, socket, tt.name, tt.frame)
	}
}

// arrived waits for a frame of the attacker's at the link's other end, and compares it.
func arrived(t *testing.T, socket int, name string, want []byte) {
	t.Helper()
	for got := make([]byte, 1<<16); ; {
		n, _, err := unix.Recvfrom(socket, got, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			t.Fatalf("%s has not arrived: %v", name, err)
		}
		if n < 14 || !bytes.Equal(got[6:12], attackersMAC()) {
			continue // the kernel's own
		}
		if !bytes.Equal(got[:n], want) {
			t.Errorf("%s arrives as %x, want %x", name, got[:n], want)
		}
		return
	}
}
