// SPDX-License-Identifier: Apache-2.0

package network

import (
	"context"
	"fmt"
	"slices"
	"syscall"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// queue is more messages than the kernel keeps for a socket (net.core.rmem_default by the least
// size of one). It is counted in messages since nothing tells how many of them wait.
const queue = 1024

// Watch calls changed after links, addresses, routes, rules or neighbours have changed, once for
// all changes that came in the meantime, until ctx is done. Of sysctls the kernel reports a few
// (rtnetlink's netconf); engines set the others before a link goes up, which is reported. One
// goroutine calls changed, never twice at once. It has to look for itself what has changed.
func (n *Namespace) Watch(ctx context.Context, changed func()) error {
	socket, err := n.subscribe()
	if err != nil {
		return fmt.Errorf("watch network namespace: %w", err)
	}
	context.AfterFunc(ctx, socket.Close)
	// One place: a change that comes while changed runs is looked at after it, and any more of them
	// are the same look.
	wake := make(chan struct{}, 1)
	go listen(ctx, socket, wake)
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-wake:
				changed()
			}
		}
	}()
	return nil
}

// subscribe opens the socket inside the namespace, whose events it gets from then on.
func (n *Namespace) subscribe() (socket *nl.NetlinkSocket, err error) {
	err = n.do(func() (err error) {
		socket, err = nl.Subscribe(unix.NETLINK_ROUTE, unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH,
			unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_ROUTE,
			unix.RTNLGRP_IPV4_RULE, unix.RTNLGRP_IPV6_RULE, unix.RTNLGRP_IPV4_NETCONF, unix.RTNLGRP_IPV6_NETCONF)
		return err
	})
	return socket, err
}

// listen wakes for what the guest is to learn of, until ctx is done. The kernel drops what is too
// much at once, and says so (ENOBUFS): from there to the end of the queue any message may stand for
// one that was dropped.
func listen(ctx context.Context, socket *nl.NetlinkSocket, wake chan<- struct{}) {
	for doubtful := 0; ; doubtful-- {
		messages, _, err := socket.Receive()
		if err != nil {
			select {
			case <-ctx.Done():
				return
			case <-time.After(100 * time.Millisecond): // much at once goes on for a while
			}
			doubtful = queue
		}
		// A busy network learns neighbours all the time, and each look at the namespace is dozens
		// of calls.
		if doubtful <= 0 && !slices.ContainsFunc(messages, relevant) {
			continue
		}
		select {
		case wake <- struct{}{}:
		default: // told already
		}
	}
}

// relevant is false for our taps and for neighbours that were learnt: the guest gets neither. What
// cannot be parsed is relevant: a look too many costs time, one too few a link.
func relevant(m syscall.NetlinkMessage) bool {
	switch m.Header.Type {
	case unix.RTM_NEWLINK, unix.RTM_DELLINK:
		header := unix.NlMsghdr(m.Header)
		l, err := netlink.LinkDeserialize(&header, m.Data)
		return err != nil || engineMade(l)
	case unix.RTM_NEWNEIGH, unix.RTM_DELNEIGH:
		n, err := netlink.NeighDeserialize(m.Data)
		return err != nil || n.State&netlink.NUD_PERMANENT != 0
	}
	return true
}
