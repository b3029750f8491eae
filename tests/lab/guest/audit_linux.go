// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Message types and masks of linux/audit.h.
const (
	auditGet   = 1000
	auditSet   = 1001
	auditUser  = 1005
	firstEvent = 1100

	maskEnabled = 0x01
	maskPID     = 0x04
	maskRate    = 0x08
	maskBacklog = 0x10
)

// audit is the connection of the host's audit daemon, which the lab's service is: no record goes
// past it.
type audit struct {
	socket int
	marks  int

	mu      sync.Mutex
	records []string
	lost    int
	changed chan struct{}
}

func newAudit() (*audit, error) {
	socket, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_AUDIT)
	if err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	if err := unix.Bind(socket, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	// Room for the records of a whole attack: the kernel drops what the buffer cannot take.
	_ = unix.SetsockoptInt(socket, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 16<<20)
	a := &audit{socket: socket, changed: make(chan struct{}, 1)}
	status := make([]byte, 44)
	binary.LittleEndian.PutUint32(status[0:], maskEnabled|maskPID|maskRate|maskBacklog)
	binary.LittleEndian.PutUint32(status[4:], 1)
	binary.LittleEndian.PutUint32(status[12:], uint32(unix.Getpid()))
	binary.LittleEndian.PutUint32(status[20:], 16384)
	if err := a.send(auditSet, status, unix.NLM_F_ACK); err != nil {
		return nil, err
	}
	go a.read()
	return a, nil
}

func (a *audit) send(kind uint16, data []byte, flags uint16) error {
	message := make([]byte, unix.SizeofNlMsghdr, unix.SizeofNlMsghdr+len(data))
	binary.LittleEndian.PutUint32(message[0:], uint32(unix.SizeofNlMsghdr+len(data)))
	binary.LittleEndian.PutUint16(message[4:], kind)
	binary.LittleEndian.PutUint16(message[6:], unix.NLM_F_REQUEST|flags)
	binary.LittleEndian.PutUint32(message[8:], 1)
	message = append(message, data...)
	if err := unix.Sendto(a.socket, message, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return fmt.Errorf("audit: %w", err)
	}
	return nil
}

// read collects records for ever.
func (a *audit) read() {
	buffer := make([]byte, 64<<10)
	for {
		n, _, err := unix.Recvfrom(a.socket, buffer, 0)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			a.add("lab: audit socket: " + err.Error())
			if errors.Is(err, unix.ENOBUFS) {
				continue
			}
			return
		}
		if n < unix.SizeofNlMsghdr {
			continue
		}
		kind := binary.LittleEndian.Uint16(buffer[4:])
		text := string(bytes.TrimRight(buffer[unix.SizeofNlMsghdr:n], "\x00\n"))
		switch {
		case kind == auditGet && n >= unix.SizeofNlMsghdr+28:
			a.mu.Lock()
			a.lost = int(binary.LittleEndian.Uint32(buffer[unix.SizeofNlMsghdr+24:]))
			a.mu.Unlock()
		case kind >= firstEvent || kind == auditUser:
			a.add("type=" + strconv.Itoa(int(kind)) + " " + text)
		}
	}
}

func (a *audit) add(record string) {
	a.mu.Lock()
	a.records = append(a.records, record)
	a.mu.Unlock()
	select {
	case a.changed <- struct{}{}:
	default:
	}
}

// take returns the records up to now: it sends one of its own and waits for that one to come back.
func (a *audit) take() ([]string, int, error) {
	a.marks++
	mark := "lab mark " + strconv.Itoa(a.marks)
	if err := a.send(auditUser, append([]byte(mark), 0), 0); err != nil {
		return nil, 0, err
	}
	_ = a.send(auditGet, nil, 0)
	late := time.After(20 * time.Second)
	for {
		a.mu.Lock()
		for i, record := range a.records {
			if strings.Contains(record, mark+"'") || strings.HasSuffix(record, mark) {
				found := a.records[:i:i]
				a.records = append([]string(nil), a.records[i+1:]...)
				lost := a.lost
				a.mu.Unlock()
				return found, lost, nil
			}
		}
		a.mu.Unlock()
		select {
		case <-a.changed:
		case <-late:
			return nil, 0, fmt.Errorf("audit: %s did not come back", mark)
		}
	}
}
