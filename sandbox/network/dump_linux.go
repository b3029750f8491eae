// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumps bounds how often an interrupted dump is asked for. The kernel interrupts one when what it
// lists changes meanwhile. A list of which a part is old would take an address or a route from the
// guest.
const dumps = 20

// whole repeats a netlink dump until the kernel says that it is complete.
func whole[T any](dump func() ([]T, error)) (list []T, err error) {
	for range dumps {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return nil, err
}
