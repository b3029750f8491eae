// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/mcs"
	"cloister/oci"
)

// none is the driver of a host without mandatory access control. It reserves a pair, which is the
// sandbox's identity on this host, but labels nothing with it. It refuses what only a label could
// do, and checks before each step that the host has not begun to enforce. The pair still numbers
// the sandbox: QEMU's uid follows from it.
type none struct {
	host     *lsm.Driver
	registry *mcs.Registry
	owner    string
	tenant   string
	unasked  bool // nobody named this driver: the host has no other
	plain    bool
	level    labels.Level // after Reserve
}

// openNone makes the driver none. lsm.Open has refused a host that enforces before this is reached.
func openNone(host *lsm.Driver, o Options) (Driver, error) {
	if o.Annotations != (oci.LabelSettings{}) {
		return nil, fmt.Errorf("annotations %s*: mac %q uses no labels: leave the annotations out, or use a host with SELinux: %w",
			oci.AnnotationPrefix+"labels.", None, errdefs.ErrInvalidArgument)
	}
	k, err := open(o.Config, o.Root, host.Host(), o.AppArmor)
	return &none{
		host: host, registry: k.registry, owner: o.Sandbox, tenant: o.Tenant,
		unasked: o.Config.MAC != string(None), plain: o.plain(),
	}, err
}

func (n *none) Reserve(ctx context.Context) (Identity, error) {
	if n.unasked {
		what := "only the jail confines a guest that takes over QEMU or virtiofsd"
		if n.plain {
			what = "only what its engine asks for (namespaces, seccomp) confines a plain container"
		}
		log.G(ctx).WithField("sandbox", n.owner).Warnf("this host enforces neither SELinux nor AppArmor: %s: "+
			"enable one of them, or set mac = \"none\" under [labels] to accept this", what)
	}
	entry, err := n.registry.Reserve(ctx, mcs.Request{Sandbox: n.owner, Tenant: n.tenant})
	if err != nil {
		return Identity{}, err
	}
	n.level = entry.Level
	return Identity{MAC: None, Level: entry.Level, Rank: rankOf(entry.Level)}, nil
}

func (n *none) Exec(Role) (unset func(), err error) { return n.host.SetExec(labels.Label{}) }

func (n *none) Sockets(create func() error) error { return n.host.Sockets(labels.Label{}, create) }

func (*none) Admit(_ context.Context, f File) error { return unlabelled(f, None) }

// unlabelled refuses a file that is to be labelled, which the driver does not do. Taking such a
// wish in silence would leave a folder open that its owner believes closed.
func unlabelled(f File, driver MAC) error {
	if f.Sharing != "" && f.Sharing != labels.Keep {
		return fmt.Errorf("%w: %q is to be labelled as %s, and mac %q uses no labels: leave one of the two settings out",
			labels.ErrWish, f.Host.Name(), f.Sharing, driver)
	}
	return nil
}

// Verify compares programs, and wants no label: another one means that the host has begun to label.
func (n *none) Verify(_ context.Context, all ...Process) error {
	for _, p := range all {
		if p.Waiting {
			if _, err := n.host.VerifyWaiting(p.PID, labels.Label{}, p.Program); err != nil {
				return fmt.Errorf("%s: %w", p.Role, err)
			}
			continue
		}
		if _, err := n.host.Verify(p.PID, labels.Label{}, p.Program); err != nil {
			return fmt.Errorf("%s: %w", p.Role, err)
		}
	}
	return nil
}

func (n *none) Release(ctx context.Context) error { return n.registry.Release(ctx, n.owner, n.level) }
