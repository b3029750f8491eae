// SPDX-License-Identifier: Apache-2.0

package network

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// NewTap makes a tap link in the namespace and returns its descriptor, ready to
// be handed to a machine. The link goes when the last descriptor is closed.
func (n *Namespace) NewTap(name string) (tap *os.File, err error) {
	err = n.do(func() error {
		tap, err = openTap(name)
		return err
	})
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
