// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// NewTap makes a tap link for the machine's NIC with that address and returns its descriptor. The
// link goes when the last descriptor is closed. The descriptor goes to QEMU by inheritance: QEMU
// opens no /dev/net/tun and needs no right in the namespace. All taps are made before QEMU starts.
func (n *Namespace) NewTap(mac string) (tap *os.File, err error) {
	name := tapPrefix + strconv.Itoa(len(n.cards))
	err = n.do(func() error {
		tap, err = openTap(name, firstTap+len(n.cards))
		return err
	})
	if err == nil {
		n.cards = append(n.cards, &card{tap: name, mac: mac})
	}
	return tap, err
}

// firstTap is the index of the first NIC's tap. It is in the last bucket of the kernel's table and
// behind what an engine makes later, so that the tap comes last in every list of links: nerdctl
// takes the first link that is up for the container's (inspect, .IPAddress). Kernels list links by
// bucket (the index modulo 256) or by index: it comes late in both.
const firstTap = 0xfff0

// openTap runs inside the namespace: a tap belongs to the namespace of the thread that opens it.
func openTap(name string, index int) (*os.File, error) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		// IFF_NO_PI: frames alone. IFF_VNET_HDR: with virtio's header before each frame, so that
		// checksums and segmentation are left to the other side.
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlSetPointerInt(int(f.Fd()), unix.TUNSETIFINDEX, index)
	}
	if err == nil {
		err = unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr)
	}
	if errors.Is(err, unix.EBUSY) { // a link of a host with that many has the index: any will do
		err = errors.Join(unix.IoctlSetPointerInt(int(f.Fd()), unix.TUNSETIFINDEX, 0), unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr))
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	return f, nil
}
