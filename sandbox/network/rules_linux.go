// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net"
	"reflect"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// rules are those that somebody has added to the kernel's own three. One with a condition that the
// guest's contract does not know, or of a link that the guest has not, is left out. A rule that is
// left out silently could send traffic past a VPN or a policy, so each one is an error for the
// caller to judge.
func rules(h *netlink.Handle, names map[int]string, out *guestv1.Network) (left []error, err error) {
	links := map[string]bool{"": true, "lo": true}
	for _, name := range names {
		links[name] = true
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		number := uint32(4)
		if family == netlink.FAMILY_V6 {
			number = 6
		}
		list, err := whole(func() ([]netlink.Rule, error) { return h.RuleList(family) })
		// CONFIG_IP_MULTIPLE_TABLES may be off for one family.
		if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EAFNOSUPPORT) {
			continue // a kernel without
		}
		if err != nil {
			return nil, fmt.Errorf("list rules: %w", err)
		}
		for _, r := range list {
			switch {
			case kernelRule(r):
			case !plain(r) || !links[r.IifName] || !links[r.OifName]:
				left = append(left,
					fmt.Errorf("rule %d of IPv%d cannot be passed to a guest: use a table and conditions of from, to, iif and oif "+
						"with links that the guest has, and fwmark: %w",
						r.Priority, number, errdefs.ErrFailedPrecondition))
			default:
				out.Rules = append(out.Rules, guestRule(r, number))
			}
		}
	}
	return left, nil
}

// kernelRule is one of those with which every namespace begins. Priority and table are not enough:
// an engine may put a rule with conditions beside it, at the same priority.
func kernelRule(r netlink.Rule) bool {
	own := map[int]int{0: unix.RT_TABLE_LOCAL, 32766: unix.RT_TABLE_MAIN, 32767: unix.RT_TABLE_DEFAULT}
	return own[r.Priority] == r.Table && unconditional(r)
}

// unconditional is true for a rule that holds for every packet.
func unconditional(r netlink.Rule) bool {
	return plain(r) && r.Src == nil && r.Dst == nil && r.IifName == "" && r.OifName == "" && r.Mark == 0 && !r.Invert
}

// plain is true for a rule that says no more than the contract can. It compares with a rule that
// has the known fields alone. A field that a later version of the library reads makes the rule
// foreign by itself, where a list of unknown fields would let it pass.
func plain(r netlink.Rule) bool {
	known := *netlink.NewRule()
	known.Priority, known.Family, known.Table, known.Protocol, known.Type = r.Priority, r.Family, r.Table, r.Protocol, r.Type
	known.Src, known.Dst, known.IifName, known.OifName, known.Mark, known.Mask, known.Invert = r.Src, r.Dst,
		r.IifName, r.OifName, r.Mark, r.Mask, r.Invert
	return r.Table != unix.RT_TABLE_UNSPEC && reflect.DeepEqual(r, known)
}

// guestRule is only for rules that plain has let pass.
func guestRule(r netlink.Rule, family uint32) *guestv1.Rule {
	rule := &guestv1.Rule{
		Family: family, Priority: uint32(r.Priority), Source: text(r.Src), Destination: text(r.Dst),
		InLink: r.IifName, OutLink: r.OifName, Mark: r.Mark, Invert: r.Invert, Table: uint32(r.Table),
	}
	if r.Mask != nil {
		rule.Mask = *r.Mask
	}
	return rule
}

func text(n *net.IPNet) string {
	if n == nil {
		return ""
	}
	return n.String()
}
