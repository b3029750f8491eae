// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/containerd/log"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/mcs"
	"cloister/labels/policy"
	"cloister/labels/relabel"
	"cloister/oci"
)

// selinux is a sandbox's labels and who keeps track of them. plain is true for class process, whose
// containers share one label and have no program of their own to compare.
type selinux struct {
	driver   *lsm.Driver
	wish     labels.Wish
	types    labels.Types
	registry *mcs.Registry
	relabels *relabel.Journal
	owner    string // the sandbox's name in registry and journal
	tenant   string
	plain    bool
	chosen   labels.Chosen // after Reserve

	mu   sync.Mutex
	seen bool // nobody else had the level when the first container was verified; guarded by mu
}

// openSELinux has no effect. It has no effect. Whether the policy is loaded and knows the types is
// asked of the kernel now, not of files.
func openSELinux(driver *lsm.Driver, o Options) (Driver, error) {
	s := &selinux{driver: driver, owner: o.Sandbox, tenant: o.Tenant, wish: o.Wish, plain: o.plain()}
	enforcing, err := driver.Host().Enforcing()
	if err != nil {
		return nil, err
	}
	if err := s.wish.Validate(enforcing); err != nil {
		return nil, err
	}
	if s.types, err = chooseTypes(driver, o.Types, o.Programs); err != nil {
		return nil, err
	}
	k, err := open(o.Config, o.Root, driver.Host(), o.AppArmor)
	s.registry, s.relabels = k.registry, k.relabels
	return s, err
}

// Types are those that a sandbox without wishes of its own would get from a shim that runs under
// the driver's label, or why there are none. `cloister check` uses it.
func Types(driver *lsm.Driver, c Config, kvm bool, programs lsm.Programs) (labels.Types, error) {
	w, err := Wish(SELinux, c, oci.LabelSettings{}, oci.Labels{})
	if err != nil {
		return labels.Types{}, err
	}
	return chooseTypes(driver, w.Candidates(kvm), programs)
}

// chooseTypes gives the first set of types that the kernel, asked now, says works on this host. The
// self-test asks whether the domain may do what it must and must not do what would open it: a type
// that works and confines nothing is not taken.
func chooseTypes(driver *lsm.Driver, candidates []labels.Types, programs lsm.Programs) (labels.Types, error) {
	return driver.ChooseTypes(candidates, programs, func(t labels.Types) error {
		return policy.SelfTest(kernel{driver.Host()}, policy.Of(t))
	})
}

// Reserve gives the level and chooses all labels at it. After an error nothing is held. A level
// that was asked for and is taken is an error, not another level. A level that is still on a file
// is not given out: the registry asks the journal for those, and a journal that cannot be read is
// its error. So files that cannot be given back, which their owner can bring about, stop nobody
// else's start. Two starts need the files back: one with a share, which the registry gives a level
// whatever carries it, and one of the dead sandbox's name, whose files have the old level.
func (s *selinux) Reserve(ctx context.Context) (Identity, error) {
	if _, err := s.relabels.Replay(ctx); err != nil {
		own, pendingErr := s.relabels.Pending(s.owner)
		if own || pendingErr != nil || s.wish.Share != "" {
			return Identity{}, errors.Join(err, pendingErr)
		}
		log.G(ctx).WithError(err).Warn("files of a dead sandbox keep their labels, and its level stays held: run: cloister gc")
	}
	entry, err := s.registry.Reserve(ctx, mcs.Request{Sandbox: s.owner, Tenant: s.tenant, Level: s.wish.Level(), Share: s.wish.Share})
	if err != nil {
		return Identity{}, err
	}
	chosen, err := labels.Choose(s.wish, s.driver.OwnLabel(), s.types, entry.Level)
	if err != nil {
		return Identity{}, errors.Join(err, s.registry.Release(context.WithoutCancel(ctx), s.owner, entry.Level))
	}
	s.chosen = chosen
	return Identity{MAC: SELinux, Level: entry.Level, Rank: rankOf(entry.Level), Label: chosen.QEMU, Files: chosen.Rootfs}, nil
}

// Release gives files and level back. A file that cannot be given back keeps the level held, so
// that nobody draws it and reads the file; gc tries again.
func (s *selinux) Release(ctx context.Context) error {
	if _, err := s.relabels.Restore(ctx, s.owner); err != nil {
		return err // the level stays held while a file carries it
	}
	if s.chosen.QEMU.IsZero() {
		return nil // Reserve failed, and holds nothing
	}
	return s.registry.Release(ctx, s.owner, s.chosen.Level)
}

func (s *selinux) Exec(r Role) (unset func(), err error) { return s.driver.SetExec(s.label(r)) }

// label is what a process of that role runs under.
func (s *selinux) label(r Role) labels.Label {
	if r == FileServer {
		return s.chosen.Virtiofsd
	}
	return s.chosen.QEMU
}

// Sockets has sockets get QEMU's label when they are made: QEMU may use none with the shim's.
func (s *selinux) Sockets(create func() error) error { return s.driver.Sockets(s.chosen.QEMU, create) }

// Verify reads labels, programs and peers back, and looks who else has the level. The memory gets
// its level here: Fedora's policy makes a memfd at s0, where every guest could use it.
func (s *selinux) Verify(ctx context.Context, all ...Process) error {
	if s.plain {
		return s.verifyContainers(ctx, all)
	}
	for _, p := range all {
		if _, err := s.driver.Verify(p.PID, s.label(p.Role), p.Program); err != nil {
			return fmt.Errorf("%s: %w", p.Role, err)
		}
		if err := s.driver.LevelMemory(p.PID, s.chosen.Level, s.chosen.Template); err != nil {
			return fmt.Errorf("%s: %w", p.Role, err)
		}
		for _, socket := range p.Peers {
			if err := s.driver.CheckPeer(socket, s.chosen.QEMU); err != nil {
				return fmt.Errorf("%s: %w", p.Role, err)
			}
		}
	}
	return s.lookAgain(ctx, all)
}

// verifyContainers is Verify for plain containers. The containers of a pod share a level: who else
// has it is looked at while the first of them waits.
func (s *selinux) verifyContainers(ctx context.Context, all []Process) error {
	for _, p := range all {
		verify := s.driver.VerifyStarted
		if p.Waiting {
			verify = s.driver.VerifyWaiting
		}
		if _, err := verify(p.PID, s.chosen.QEMU, ""); err != nil {
			return fmt.Errorf("%s: %w", p.Role, err)
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen {
		return nil
	}
	err := s.lookAgain(ctx, all)
	s.seen = err == nil
	return err
}

// lookAgain is ErrClash when somebody beside these processes has come to have the level. Between
// draw and start another runtime, libvirt for one, may have taken the same pair by itself.
// Sandboxes that share a level on purpose are not a clash.
func (s *selinux) lookAgain(ctx context.Context, all []Process) error {
	if s.wish.Share != "" {
		return nil
	}
	clash, err := s.registry.LookAgain(ctx, s.chosen.Level, func(pid int) bool {
		return slices.ContainsFunc(all, func(p Process) bool { return p.PID == pid })
	})
	if err == nil && len(clash) > 0 {
		err = fmt.Errorf("level %s is carried by pid %d as well: %w", s.chosen.Level, clash[0].PID, mcs.ErrClash)
	}
	return err
}

// kernel answers the policy's self-test.
type kernel struct{ host lsm.Host }

// Allowed asks the loaded policy, by the kernel's access file. A permissive domain is told apart,
// since everything is allowed to it.
func (k kernel) Allowed(source, target, class, permission string) (policy.Answer, error) {
	from, err := labels.Parse(source)
	if err != nil {
		return policy.Answer{}, err
	}
	to, err := labels.Parse(target)
	if err != nil {
		return policy.Answer{}, err
	}
	d, err := k.host.Access(from, to, class, permission)
	return policy.Answer{Allowed: d.Allowed, Permissive: d.Permissive}, err
}
