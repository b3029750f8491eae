// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

const portRange = "/proc/sys/net/ipv4/ip_local_port_range"

// Identity tells the namespace from every other one of this boot, and Ports the host side's local
// ports as they are now: what Restore needs to know. Both go to the record before KeepHostPorts
// changes the range. ports is "FIRST LAST".
func (n *Namespace) Identity() (identity, ports string, err error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(n.file.Fd()), &st); err != nil {
		return "", "", fmt.Errorf("network namespace: %w", err)
	}
	err = n.do(func() error {
		data, err := os.ReadFile(portRange)
		ports = strings.Join(strings.Fields(string(data)), " ")
		return err
	})
	return fmt.Sprintf("%d:%d", st.Dev, st.Ino), ports, err
}

// Restore takes every redirect off the namespace's links and gives its host side the local ports
// back. Restore may be repeated, and may run in a namespace where nothing was done: a link without
// a queue is no error. A range that is not ours by now is somebody else's and stays.
func (n *Namespace) Restore(ports string) error {
	h, err := netlink.NewHandleAt(netns.NsHandle(n.file.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("network namespace: %w", err)
	}
	defer h.Close()
	links, err := whole(h.LinkList)
	if err != nil {
		return fmt.Errorf("list links: %w", err)
	}
	var errs []error
	for _, l := range links {
		// The taps go with QEMU's descriptors, and their filters with them.
		if engineMade(l) {
			errs = append(errs, dropIngress(h, l))
		}
	}
	errs = append(errs, n.do(func() error {
		now, err := os.ReadFile(portRange)
		if err != nil || ports == "" || strings.Join(strings.Fields(string(now)), " ") != ownPorts() {
			return err
		}
		return os.WriteFile(portRange, []byte(ports), 0)
	}))
	return errors.Join(errs...)
}

// RestoreAt is Restore for the namespace at path, if it is still the one with that identity. The
// engine may have removed the namespace and made another one at the same path, with a container of
// runc's in it: that one is left alone.
func RestoreAt(path, identity, ports string) error {
	n, err := Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return nil // the name is another thing's by now
	}
	defer n.Close()
	if have, _, err := n.Identity(); err != nil || have != identity {
		return err
	}
	return n.Restore(ports)
}

// ingress is the queue that holds the filters for what arrives. 0xffff is the handle that the
// kernel gives it, whatever is asked for.
func ingress(l netlink.Link) *netlink.Ingress {
	return &netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: l.Attrs().Index,
		Parent:    netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
	}}
}

// dropIngress takes the ingress queue and its filters off a link that may have none. ENOENT and
// EINVAL are the kernel's words for "no such queue", ENODEV for a link that has just gone.
func dropIngress(h *netlink.Handle, l netlink.Link) error {
	err := h.QdiscDel(ingress(l))
	if err == nil || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENODEV) {
		return nil
	}
	return fmt.Errorf("ingress of %s: %w", l.Attrs().Name, err)
}

// hasIngress is false for a link that has lost its queue: one does that goes to another namespace,
// even if it comes back. An error counts as no queue: the link is then wired anew, which says what
// is wrong.
func hasIngress(h *netlink.Handle, l netlink.Link) bool {
	list, err := whole(func() ([]netlink.Qdisc, error) { return h.QdiscList(l) })
	return err == nil && slices.ContainsFunc(list, func(q netlink.Qdisc) bool { return q.Attrs().Parent == netlink.HANDLE_INGRESS })
}
