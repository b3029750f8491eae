// SPDX-License-Identifier: Apache-2.0

package network

import (
	"errors"
	"fmt"
	"net"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	guestv1 "cloister/sandbox/guestapi/v1"
)

// ruleProtocol marks the rules that the host has asked for: whoever may, in the guest, makes others
// beside them. Values from 4 up are free for programs (rtnetlink.h of the kernel); the workload's
// own rules have another one and stay.
const ruleProtocol = 0xc1

// applyRules makes the marked rules those that are wanted.
func applyRules(want []*guestv1.Rule) error {
	var errs []error
	have := map[string]netlink.Rule{}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		list, err := whole(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
		// The small kernel may have no rules at all; that matters only where some are wanted.
		if err != nil && len(want) > 0 {
			return fmt.Errorf("list rules: %w", err)
		}
		for _, r := range list {
			if r.Protocol == ruleProtocol {
				have[ruleKey(&r)] = r
			}
		}
	}
	for _, w := range want {
		r, err := parseRule(w)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		key := ruleKey(r)
		if _, there := have[key]; there {
			delete(have, key)
		} else if err := netlink.RuleAdd(r); err != nil && !errors.Is(err, unix.EEXIST) {
			errs = append(errs, fmt.Errorf("add rule %s: %w", r, err))
		}
	}
	// The rules that are still in have are no longer wanted.
	for _, r := range have {
		if err := netlink.RuleDel(&r); err != nil && !errors.Is(err, unix.ENOENT) {
			errs = append(errs, fmt.Errorf("remove rule %s: %w", r, err))
		}
	}
	return errors.Join(errs...)
}

// ruleKey has all that the host can ask for. Numbers and names are kept apart by blanks.
func ruleKey(r *netlink.Rule) string {
	var mask uint32
	if r.Mask != nil {
		mask = *r.Mask
	}
	return fmt.Sprint(r.Family, r.Priority, r.Src, r.Dst, r.IifName, " ", r.OifName, " ", r.Mark, mask, r.Invert, r.Table)
}

// parseRule makes a marked rule. An empty source or destination is no condition.
func parseRule(w *guestv1.Rule) (r *netlink.Rule, err error) {
	r = netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Protocol = netlink.FAMILY_V4, int(w.GetPriority()), int(w.GetTable()), ruleProtocol
	r.IifName, r.OifName, r.Mark, r.Invert = w.GetInLink(), w.GetOutLink(), w.GetMark(), w.GetInvert()
	if w.GetFamily() == 6 {
		r.Family = netlink.FAMILY_V6
	}
	if w.GetMask() != 0 {
		mask := w.GetMask()
		r.Mask = &mask
	}
	if r.Src, err = parseNet(w.GetSource()); err != nil {
		return nil, err
	}
	r.Dst, err = parseNet(w.GetDestination())
	return r, err
}

// parseNet is nil for an empty text.
func parseNet(s string) (*net.IPNet, error) {
	if s == "" {
		return nil, nil //nolint:nilnil // no condition
	}
	_, n, err := net.ParseCIDR(s)
	if err != nil {
		return nil, fmt.Errorf("rule: %w: %w", errdefs.ErrInvalidArgument, err)
	}
	return n, nil
}
