// SPDX-License-Identifier: Apache-2.0

package network

import (
	"crypto/rand"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
)

// NewAddresses gives every link that is no NIC and has a link-layer address a new random one: the
// kernel has made them at boot, which guests of one template have in common. A NIC gets the address
// of the link that it stands for by Apply. Loopback has no address that matters, and tunnels have
// addresses of other lengths.
func NewAddresses() error {
	all, err := whole(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	for _, l := range all {
		a := l.Attrs()
		if isCard(l) || len(a.HardwareAddr) != 6 || a.Flags&net.FlagLoopback != 0 {
			continue
		}
		// A workload that knows the address in one guest would know it in all of them.
		mac := make(net.HardwareAddr, 6)
		if _, err := rand.Read(mac); err != nil {
			return err
		}
		mac[0] = mac[0]&^1 | 2 // unicast, locally administered
		if err := netlink.LinkSetHardwareAddr(l, mac); err != nil {
			return fmt.Errorf("new address of %s: %w", a.Name, err)
		}
	}
	return nil
}
