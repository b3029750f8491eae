// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"cloister/labels/lsm"
	"cloister/labels/policy"
)

// ownDomain adds to the error of a start what to do where the policy is right and this process is
// in the wrong domain: only the shim's may enter those of sandboxes. verb is what was asked for.
func ownDomain(verb string, host lsm.Host, err error) error {
	if !errors.Is(err, lsm.ErrNoDomain) {
		return err
	}
	own, failed := host.OwnLabel()
	if failed != nil || own.Type == policy.ShimType {
		return err
	}
	return fmt.Errorf("%s runs in the domain %s, and %s alone may enter those of sandboxes: on a host without other sandboxes run "+
		"`semanage permissive -a %s`, then a copy of this program whose file has the type %s, then `semanage permissive -d %s` "+
		"(docs/threats.md, With SELinux): %w",
		verb, own.Type, policy.ShimType, policy.ShimType, policy.ShimExecType, policy.ShimType, err)
}
