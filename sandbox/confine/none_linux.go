// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/oci"
)

// none is the driver of a host without mandatory access control. It labels nothing, refuses what only
// a label could do, and checks before each step that the host has not begun to enforce.
type none struct {
	host     *lsm.Driver
	programs lsm.Programs
}

func openNone(host *lsm.Driver, o Options) (Driver, error) {
	if o.Annotations != (oci.LabelSettings{}) {
		return nil, fmt.Errorf("annotations %s*: this host labels nothing: leave them out, or set mac = \"selinux\": %w", oci.AnnotationPrefix+"labels.", errdefs.ErrInvalidArgument)
	}
	return &none{host: host, programs: o.Programs}, nil
}

func (*none) Reserve(context.Context) (Identity, error) { return Identity{}, nil }

func (n *none) Exec(Role) (clear func(), err error) { return n.host.SetExec(labels.Label{}) }

func (n *none) Sockets(create func() error) error { return n.host.Sockets(labels.Label{}, create) }

func (*none) Admit(_ context.Context, f File) error {
	if f.Sharing != "" && f.Sharing != labels.Keep {
		return fmt.Errorf("%w: %q is to be labelled as %s, and mac = \"none\": leave one of them out", labels.ErrWish, f.Host.Name(), f.Sharing)
	}
	return nil
}

func (n *none) Verify(_ context.Context, all ...Process) error {
	for _, p := range all {
		if _, err := n.host.Verify(p.PID, labels.Label{}, p.Program); err != nil {
			return fmt.Errorf("%s: %w", p.Role, err)
		}
	}
	return nil
}

func (*none) Release(context.Context) error { return nil }
