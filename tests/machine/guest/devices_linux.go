// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// reads reads blocks of a disk past the page cache.
func reads(lun string) func(thread, times int) error {
	return func(_, times int) error {
		path, err := diskPath(lun)
		if err != nil {
			return err
		}
		f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		const block = 4096
		page, err := unix.Mmap(-1, 0, block, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
		if err != nil {
			return err
		}
		defer unix.Munmap(page) //nolint:errcheck // the machine ends soon
		for i := range times {
			if _, err := f.ReadAt(page, int64(i%256)*block); err != nil {
				return fmt.Errorf("read %d: %w", i, err)
			}
		}
		return nil
	}
}

// The addresses of eth0 and of who answers. There is no ARP: the neighbour is set.
var (
	ownAddress  = [4]byte{10, 99, 0, 2}
	peerAddress = [4]byte{10, 99, 0, 1}
	peerMAC     = [6]byte{0x02, 0, 0, 0, 0x99, 1}
)

// deaf is how long no answer may come until the network counts as dead; lost packets are sent again
// before.
const deaf = 60 * time.Second

// datagrams sends datagrams by eth0 and waits for the answer to each.
func datagrams(thread, times int) error {
	if err := configure(); err != nil {
		return err
	}
	conn, err := net.DialUDP("udp4", nil, &net.UDPAddr{IP: peerAddress[:], Port: 9000 + thread})
	if err != nil {
		return err
	}
	defer conn.Close()
	answer := make([]byte, 64)
	for i := range times {
		word := fmt.Sprintf("%d.%d", thread, i)
		heard := time.Now()
		for got := ""; got != word; {
			if time.Since(heard) > deaf {
				return fmt.Errorf("no answer to datagram %d in %s", i, deaf)
			}
			if _, err := conn.Write([]byte(word)); err != nil {
				return err
			}
			if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
				return err
			}
			n, err := conn.Read(answer)
			if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
				return err
			}
			got = string(answer[:n])
		}
	}
	return nil
}

// configure gives eth0 its address and the neighbour.
func configure() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	r, err := unix.NewIfreq("eth0")
	if err != nil {
		return err
	}
	if err := r.SetInet4Addr(ownAddress[:]); err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCSIFADDR, r); err != nil {
		return fmt.Errorf("address: %w", err)
	}
	if err := up("eth0"); err != nil {
		return fmt.Errorf("up: %w", err)
	}
	return setNeighbour(fd)
}

// setNeighbour tells the kernel the neighbour's MAC address (struct arpreq).
func setNeighbour(fd int) error {
	const permanent = 0x06 // ATF_COM | ATF_PERM
	var request struct {
		address, hardware unix.RawSockaddrInet4
		flags             int32
		mask              unix.RawSockaddrInet4
		device            [16]byte
	}
	request.address.Family, request.address.Addr = unix.AF_INET, peerAddress
	request.hardware.Family = unix.ARPHRD_ETHER
	copy((*[6]byte)(unsafe.Pointer(&request.hardware.Port))[:], peerMAC[:]) // sa_data
	request.flags = permanent
	copy(request.device[:], "eth0")
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCSARP, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("neighbour: %w", errno)
	}
	return nil
}
