// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"fmt"

	"github.com/containerd/errdefs"

	"cloister/labels"
)

// SuitsPod refuses a later container of a pod whose engine labels its files at another level than
// the pod's. A sandbox has one level: volumes at another one fit nowhere in it, and a file of the
// engine at that level would be copied for the container as its own (Copy). The level is a pod
// author's, who may name that of another engine's container. own is the sandbox's label; zero:
// nothing is labelled, and every container suits. first and asked are linux.mountLabel of the pod's
// first container and of this one; empty: the engine gave none.
func SuitsPod(own labels.Label, first, asked string) error {
	if own.IsZero() || asked == "" || asked == first {
		return nil
	}
	wanted, err := labels.Parse(asked)
	if err != nil {
		return fmt.Errorf("linux.mountLabel: %w", err)
	}
	if first != "" {
		pod, err := labels.Parse(first)
		if err != nil {
			return fmt.Errorf("linux.mountLabel of the pod's first container: %w", err)
		}
		if pod.Range.High == wanted.Range.High {
			return nil
		}
	}
	if own.Range.High.Dominates(wanted.Range.High) {
		return nil
	}
	return fmt.Errorf("linux.mountLabel: level %s: the containers of this pod are at %s: set seLinuxOptions.level on the pod, "+
		"and on none of its containers: %w", wanted.Range.High, own.Range.High, errdefs.ErrInvalidArgument)
}
