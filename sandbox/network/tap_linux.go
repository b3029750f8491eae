// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// NewTap makes a tap link for the machine's network card with that address and
// returns its descriptor. The link goes when the last descriptor is closed.
func (n *Namespace) NewTap(mac string) (tap *os.File, err error) {
	name := tapPrefix + strconv.Itoa(len(n.cards))
	err = n.do(func() error {
		tap, err = openTap(name)
		return err
	})
	if err == nil {
		n.cards = append(n.cards, &card{tap: name, mac: mac})
	}
	return tap, err
}

func openTap(name string) (*os.File, error) {
	f, err := os.OpenFile("/dev/net/tun", os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	ifr, err := unix.NewIfreq(name)
	if err == nil {
		ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(int(f.Fd()), unix.TUNSETIFF, ifr)
	}
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("tap %s: %w", name, err)
	}
	return f, nil
}
