// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"

	"github.com/vishvananda/netlink"
)

// dumps bounds how often an interrupted dump is asked for. The kernel interrupts one when what it
// lists changes meanwhile.
const dumps = 20

// whole repeats a netlink dump until the kernel says that it is complete. An incomplete list would
// be taken for the state: what it lacks would be added again or left in place.
func whole[T any](dump func() ([]T, error)) (list []T, err error) {
	for range dumps {
		if list, err = dump(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return list, err
		}
	}
	return nil, err
}
