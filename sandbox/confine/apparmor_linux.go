// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"

	"cloister/labels"
	"cloister/labels/apparmor"
	"cloister/labels/mcs"
	"cloister/oci"
)

// profiled is the driver of a host with AppArmor. The sandbox's pair names its profile, which is
// loaded when the pair is reserved and removed before the pair is given back. It labels no file: it
// refuses what only a label could do. A profile goes by paths, so the driver resolves them once,
// before Reserve.
type profiled struct {
	host     apparmor.Host
	keepers  keepers
	owner    string // the sandbox's name in registry and journal
	tenant   string
	profile  apparmor.Profile // named by Reserve
	level    labels.Level     // after Reserve
	programs map[Role]string
}

// openAppArmor has no effect: it refuses what this host or driver cannot honour.
func openAppArmor(o Options) (Driver, error) {
	if o.Annotations != (oci.LabelSettings{}) {
		return nil, fmt.Errorf("annotations %s*: mac %q uses no labels: leave the annotations out, or use a host with SELinux: %w",
			oci.AnnotationPrefix+"labels.", AppArmor, errdefs.ErrInvalidArgument)
	}
	if err := o.AppArmor.Ready(); err != nil {
		return nil, fmt.Errorf("mac driver %q: %w", AppArmor, err)
	}
	p := &profiled{host: o.AppArmor, owner: o.Sandbox, tenant: o.Tenant}
	var err error
	if p.keepers, err = open(o.Config, o.Root, o.Host, o.AppArmor); err != nil {
		return nil, err
	}
	if o.plain() {
		p.programs = map[Role]string{Container: apparmor.Container}
		p.profile = apparmor.Profile{Plain: true}
		return p, nil
	}
	p.programs = map[Role]string{Machine: apparmor.QEMU, FileServer: apparmor.Virtiofsd}
	p.profile = apparmor.Profile{QEMU: o.Programs.QEMU, Virtiofsd: o.Programs.Virtiofsd, KVM: o.KVM, Attacker: o.Attacker}
	// A profile's rules are compared with names in which no component is a link.
	if p.profile.Share, err = resolved(o.Share); err != nil {
		return nil, err
	}
	for _, path := range o.Guest {
		path, err := filepath.EvalSymlinks(path)
		if err != nil {
			return nil, fmt.Errorf("guest image: %w", err)
		}
		p.profile.Guest = append(p.profile.Guest, path)
	}
	return p, nil
}

// resolved resolves the links of a path whose last components need not exist yet. The share's
// folder is made later in the start.
func resolved(path string) (string, error) {
	if path == "" || !filepath.IsAbs(path) {
		return "", fmt.Errorf("share %q: want an absolute path: %w", path, errdefs.ErrInvalidArgument)
	}
	whole, err := filepath.EvalSymlinks(path)
	if err == nil {
		return whole, nil
	}
	parent, last := filepath.Split(filepath.Clean(path))
	if parent == "/" {
		return filepath.Clean(path), nil
	}
	if parent, err = resolved(filepath.Clean(parent)); err != nil {
		return "", err
	}
	return filepath.Join(parent, last), nil
}

// Reserve draws a pair and loads its profile. After an error nothing is held: the pair is given
// back even if ctx has ended.
func (p *profiled) Reserve(ctx context.Context) (Identity, error) {
	if err := p.keepers.profiles.Replay(ctx); err != nil { // before a pair is given out whose profile is left
		return Identity{}, err
	}
	entry, err := p.keepers.registry.Reserve(ctx, mcs.Request{Sandbox: p.owner, Tenant: p.tenant})
	if err != nil {
		return Identity{}, err
	}
	p.level = entry.Level
	p.profile.Name, err = apparmor.NameOf(p.level)
	if err == nil {
		err = p.keepers.profiles.Load(ctx, p.owner, p.profile)
	}
	// A profile of that name that the registry does not know of may confine somebody's process.
	// Replacing it would change that process's rules.
	if errors.Is(err, apparmor.ErrExists) {
		err = fmt.Errorf("%w: %w", ErrClash, err) // another pair may be free
	}
	if err != nil {
		return Identity{}, errors.Join(err, p.keepers.registry.Release(context.WithoutCancel(ctx), p.owner, p.level))
	}
	id := Identity{MAC: AppArmor, Level: p.level, Rank: rankOf(p.level), Profile: p.profile.Name}
	if p.profile.Plain {
		id.Container = p.child(Container)
	}
	return id, nil
}

// Exec sets the profile that the kernel takes at the exec of the calling thread's child.
func (p *profiled) Exec(r Role) (unset func(), err error) {
	if p.profile.Name == "" {
		return nil, errors.New("no profile: Reserve comes first")
	}
	return func() {}, p.host.SetExec(p.child(r)) // the starting thread runs nothing else
}

// child names the profile of one role. Each role has its own, with the paths of its program alone.
func (p *profiled) child(r Role) string { return apparmor.Child(p.profile.Name, p.programs[r]) }

func (*profiled) Sockets(create func() error) error { return create() }

func (*profiled) Admit(_ context.Context, f File) error { return unlabelled(f, AppArmor) }

// Verify takes a profile or kernel in complain mode for an error: it would log what it should
// refuse.
func (p *profiled) Verify(ctx context.Context, all ...Process) error {
	ctx, cancel := context.WithTimeout(ctx, entering)
	defer cancel()
	for _, process := range all {
		var err error
		switch {
		case process.Waiting:
			err = p.host.Enforced(p.child(process.Role))
		case p.profile.Plain:
			err = p.host.Entered(ctx, process.PID, p.child(process.Role), process.Starter)
		default:
			_, err = p.host.Verify(process.PID, p.child(process.Role), process.Program)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", process.Role, err)
		}
	}
	return nil
}

// entering is how long an OCI runtime may take from its answer to the exec of the program.
const entering = 30 * time.Second

// Release removes the profile. The kernel leaves a process whose profile is removed unconfined, so
// the processes must have ended.
func (p *profiled) Release(ctx context.Context) error {
	if err := p.keepers.profiles.Restore(ctx, p.owner); err != nil {
		return err // the pair stays held while its profile is loaded
	}
	return p.keepers.registry.Release(ctx, p.owner, p.level)
}
