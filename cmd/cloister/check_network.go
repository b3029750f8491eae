// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
)

// listener is a socket that waits for others.
type listener struct {
	Protocol string
	Address  netip.Addr
	Port     uint16
}

// String is the form of ss: protocol, address and port.
func (l listener) String() string {
	return fmt.Sprintf("%s %s", l.Protocol, netip.AddrPortFrom(l.Address, l.Port))
}

// usual tells whether a virtualization host is expected to listen there (R35): ssh, web, SPICE,
// migration. Ranges are SPICE's and libvirt's migration ports.
func (l listener) usual() bool {
	if l.Protocol != "tcp" {
		return false
	}
	return l.Port == 22 || l.Port == 80 || l.Port == 443 || l.Port >= 5634 && l.Port <= 6166 || l.Port >= 49152 && l.Port <= 49216
}

// States in /proc/net: TCP_LISTEN of include/net/tcp_states.h, and an unconnected UDP socket's
// TCP_CLOSE.
const (
	tcpListen = "0A"
	udpBound  = "07"
)

// maxListeners bounds what is shown. A busy host has hundreds; a line of the check names the first
// ones.
const maxListeners = 12

// checkNetwork looks at the host's own surface. Guests' ports are in their own network namespaces
// and not seen here.
func checkNetwork(_ context.Context, s *site) []finding {
	open, err := s.listeners()
	if err != nil {
		return []finding{failed("listening ports", err)}
	}
	return []finding{
		ports(open), s.forwarding("IPv4 forwarding", "proc/sys/net/ipv4/ip_forward"),
		s.forwarding("IPv6 forwarding", "proc/sys/net/ipv6/conf/all/forwarding"),
	}
}

// ports warns: an open port is no fault of cloister's, but whoever takes the host by it has all
// guests.
func ports(open []listener) finding {
	var odd []string
	for _, l := range open {
		// Loopback is reached by this host's own programs alone.
		if !l.usual() && !l.Address.IsLoopback() {
			odd = append(odd, l.String())
		}
	}
	if len(odd) == 0 {
		return ok("listening ports", "%d, all usual for a host of guests or on loopback", len(open))
	}
	// A service that listens on several addresses of one port is one line.
	slices.Sort(odd)
	odd = slices.Compact(odd)
	more := ""
	if len(odd) > maxListeners {
		odd, more = odd[:maxListeners], fmt.Sprintf(" and %d more", len(odd)-maxListeners)
	}
	return warn("listening ports", strings.Join(odd, ", ")+more,
		"stop what is not needed, and have the firewall admit no others (ss -lntup names the programs)")
}

// forwarding is never a warning: engines switch it on, and Docker needs it.
func (s *site) forwarding(name, file string) finding {
	text, err := os.ReadFile(s.path(file))
	if err != nil {
		return ok(name, "not in this kernel")
	}
	if strings.TrimSpace(string(text)) == "0" {
		return ok(name, "off: containers on a bridge reach this host alone")
	}
	return ok(name, "on, as engines' bridges need it: have the firewall's forward rules drop what is not theirs")
}

// listeners reads the tables of this network namespace. No program is started: ss may be missing.
func (s *site) listeners() ([]listener, error) {
	var list []listener
	for _, t := range []struct{ file, protocol, state string }{
		{"tcp", "tcp", tcpListen}, {"tcp6", "tcp", tcpListen}, {"udp", "udp", udpBound}, {"udp6", "udp", udpBound},
	} {
		text, err := os.ReadFile(s.path("proc/net", t.file))
		if err != nil {
			continue // IPv6 may be off
		}
		found, err := parseListeners(text, t.protocol, t.state)
		if err != nil {
			return nil, fmt.Errorf("/proc/net/%s: %w", t.file, err)
		}
		list = append(list, found...)
	}
	return list, nil
}

// parseListeners reads /proc/net/{tcp,udp}{,6}: words of four bytes in the machine's order, here
// little-endian. The state is a hexadecimal number; the port is in ordinary order.
func parseListeners(text []byte, protocol, state string) ([]listener, error) {
	var list []listener
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Scan() // the heading
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 4 || fields[3] != state {
			continue
		}
		address, port, found := strings.Cut(fields[1], ":")
		raw, err := hex.DecodeString(address)
		if !found || err != nil || len(raw) != 4 && len(raw) != 16 {
			return nil, fmt.Errorf("address %q: want 8 or 32 hexadecimal digits and a port", fields[1])
		}
		// The kernel prints each word of the address as a number of this machine.
		for word := range slices.Chunk(raw, 4) {
			slices.Reverse(word)
		}
		n, err := strconv.ParseUint(port, 16, 16)
		if err != nil {
			return nil, fmt.Errorf("port %q: %w", port, err)
		}
		// An IPv4 address that is mapped into IPv6 is shown as IPv4.
		addr, _ := netip.AddrFromSlice(raw)
		list = append(list, listener{protocol, addr.Unmap(), uint16(n)})
	}
	return list, lines.Err()
}
