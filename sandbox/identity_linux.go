// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/labels/mcs"
	"cloister/labels/policy"
	"cloister/labels/relabel"
	"cloister/oci"
	"cloister/sandbox/statedir"
	"cloister/sys"
	"cloister/vmm"
)

// identity is a sandbox's labels and who keeps track of them. With the driver
// "none" all labels are zero, nothing is reserved and nothing relabelled.
type identity struct {
	driver   *lsm.Driver
	wish     labels.Wish
	types    labels.Types
	programs lsm.Programs
	registry *mcs.Registry
	relabels *relabel.Journal
	owner    string // the sandbox's name in registry and journal
	tenant   string // whose files its volumes are
	chosen   labels.Chosen
}

// newIdentity finds out, without an effect, how the sandbox will be labelled. A
// wish that this host cannot honour is an error.
func newIdentity(cfg Config, req Request, accel vmm.Accel) (*identity, error) {
	driver, err := lsm.Open(lsm.Options{Mode: lsm.Mode(cfg.Labels.MAC), AllowPermissive: cfg.Labels.AllowPermissive})
	if err != nil {
		return nil, err
	}
	i := &identity{driver: driver, owner: req.Namespace + "/" + req.ID, tenant: tenant(req)}
	if i.programs, err = programs(cfg.Machine); err != nil {
		return nil, err
	}
	enforcing, err := driver.Host().Enforcing()
	if err != nil {
		return nil, err
	}
	if i.wish, err = wish(cfg.Labels, req, driver.Mode()); err != nil {
		return nil, err
	}
	if err := i.wish.Validate(enforcing); err != nil || !i.labels() {
		return i, err
	}
	candidates := labels.Candidates(accel == vmm.AccelKVM)
	for n := range candidates {
		candidates[n] = i.wish.Types(candidates[n])
	}
	i.types, err = driver.ChooseTypes(candidates, i.programs, func(t labels.Types) error {
		return policy.SelfTest(kernel{driver.Host()}, policy.Of(t))
	})
	if err != nil {
		return nil, err
	}
	i.registry, i.relabels, err = keepers(cfg)
	return i, err
}

// labels is true when the sandbox is labelled at all.
func (i *identity) labels() bool { return i.driver.Mode() != lsm.ModeNone }

// wish is what config, annotations and engine ask for together; what an annotation
// says takes the place of the config's.
func wish(c Labels, req Request, mode lsm.Mode) (labels.Wish, error) {
	said := req.Workload.Settings.Labels
	w := labels.Wish{Mode: labels.Mode(cmp.Or(said.Mode, c.Mode)), Relabel: c.Relabel, Share: cmp.Or(said.Share, c.Share)}
	if said.Relabel != "" {
		yes := said.Relabel == "yes"
		w.Relabel = &yes
	}
	switch {
	case mode == lsm.ModeNone && said != (oci.LabelSettings{}):
		return w, fmt.Errorf("annotations %s*: this host labels nothing: leave them out, or set mac = \"selinux\": %w", oci.AnnotationPrefix+"labels.", errdefs.ErrInvalidArgument)
	case mode == lsm.ModeNone:
		w.Mode = labels.None
		return w, nil
	case w.Mode == labels.None:
		return w, fmt.Errorf("labels.mode = %q: to label nothing say mac = \"none\": %w", c.Mode, errdefs.ErrInvalidArgument)
	}
	engine := req.Workload.Labels
	switch c.EngineLevels {
	case "", "keep":
	case "ignore":
		engine = oci.Labels{}
	default:
		return w, fmt.Errorf("labels.engine_levels = %q: want keep or ignore: %w", c.EngineLevels, errdefs.ErrInvalidArgument)
	}
	for _, l := range []struct {
		field, text string
		into        *labels.Label
	}{
		{"labels.label", cmp.Or(said.Label, c.Label), &w.Label},
		{"labels.image", cmp.Or(said.Image, c.Image), &w.Image},
		{"labels.base", cmp.Or(said.Base, c.Base), &w.Base},
		{"process.selinuxLabel", engine.Process, &w.Engine},
		{"linux.mountLabel", engine.Mount, &w.EngineMount},
	} {
		if l.text == "" {
			continue
		}
		parsed, err := labels.Parse(l.text)
		if err != nil {
			return w, fmt.Errorf("%s: %w", l.field, err)
		}
		*l.into = parsed
	}
	return w, nil
}

// tenant is who a sandbox's kept files belong to: the pods of one Kubernetes namespace, or else all sandboxes of one namespace
// of the engine.
func tenant(req Request) string {
	return path.Join(req.Namespace, req.Workload.PodNamespace)
}

// keepers opens the registry of levels and the journal of relabelled files, and
// finishes what dead sandboxes left in the journal before any level is given out.
func keepers(cfg Config) (*mcs.Registry, *relabel.Journal, error) {
	host := lsm.Host{}
	self, err := sys.Self()
	if err != nil {
		return nil, nil, err
	}
	scan := func(ctx context.Context) ([]labels.Process, error) {
		seen, err := host.Processes(ctx)
		if seen.Hidden > 0 {
			log.G(ctx).WithField("hidden", seen.Hidden).Warn("labels of processes cannot be read: a level that one of them carries may be drawn")
		}
		return seen.Processes, err
	}
	journal, err := relabel.Open(relabel.Options{
		Dir: filepath.Join(cfg.Root, "relabel"), Self: self, Alive: sys.Process.Alive, AllowWholeDisks: cfg.Labels.AllowWholeDisks,
		Carried: func(ctx context.Context, level labels.Level) (bool, error) { return carried(ctx, scan, level) },
	})
	if err != nil {
		return nil, nil, err
	}
	var span mcs.Range
	if cfg.Labels.Range != "" {
		if span, err = mcs.ParseRange(cfg.Labels.Range); err != nil {
			return nil, nil, fmt.Errorf("labels.range: %w", err)
		}
	} else if own, err := host.OwnLabel(); err != nil {
		return nil, nil, err
	} else if span, err = mcs.RangeOf(own); err != nil {
		return nil, nil, err
	}
	registry, err := mcs.Open(mcs.Options{
		Dir: filepath.Join(cfg.Root, "mcs"), Range: span, Self: self, Alive: sys.Process.Alive, Scan: scan,
		Pending: journal.Pending, Held: journal.Held, Carries: carriesPair,
	})
	return registry, journal, err
}

func carried(ctx context.Context, scan func(context.Context) ([]labels.Process, error), level labels.Level) (bool, error) {
	all, err := scan(ctx)
	for _, p := range all {
		if own, ok := p.Label.Range.Single(); ok && own == level {
			return true, nil
		}
	}
	return false, err
}

// carriesPair tells whether a volume still carries a pair. One that is gone, or whose label is no label any more, does not.
func carriesPair(path string, pair labels.Pair) (bool, error) {
	have, err := lsm.PathLabel(path)
	if err != nil {
		return false, nil //nolint:nilerr // the file is gone or has no label, and then it has no pair
	}
	return have.Range.High.Categories == pair.Set(), nil
}

// programs are the files that will be started, as the kernel will see them.
func programs(m Machine) (p lsm.Programs, err error) {
	if p.QEMU, err = resolve(m.QEMU, "qemu-system-x86_64"); err != nil {
		return p, err
	}
	p.Virtiofsd, err = resolve(m.Virtiofsd, "virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd")
	return p, err
}

func resolve(configured string, places ...string) (string, error) {
	if configured != "" {
		places = []string{configured}
	}
	for _, name := range places {
		path, err := exec.LookPath(name)
		if err == nil {
			return filepath.EvalSymlinks(path)
		}
		if errors.Is(err, fs.ErrPermission) {
			return "", fmt.Errorf("%w: it has no execute permission: chmod 755, or set another path under [machine] in the config", err)
		}
	}
	return "", fmt.Errorf("%s: not found: install it, or set its path under [machine] in the config: %w", places[0], os.ErrNotExist)
}

// label reserves the sandbox's level and chooses every label at it.
func (s *Sandbox) label(ctx context.Context) error {
	i := s.identity
	if !i.labels() {
		return nil
	}
	if _, err := i.relabels.Replay(ctx); err != nil {
		return err
	}
	var entry mcs.Entry
	err := s.do(statedir.Effect{Kind: statedir.KindReservation, Detail: i.owner}, func(*statedir.Effect) (err error) {
		entry, err = i.registry.Reserve(ctx, mcs.Request{Sandbox: i.owner, Tenant: i.tenant, Level: i.wish.Level(), Share: i.wish.Share})
		return err
	}, func(ctx context.Context) error { return i.registry.Release(ctx, i.owner, entry.Level) })
	if err != nil {
		return err
	}
	if i.chosen, err = labels.Choose(i.wish, i.driver.OwnLabel(), i.types, entry.Level); err != nil {
		return err
	}
	s.facts["label"] = i.chosen.QEMU.String()
	return s.do(statedir.Effect{Kind: statedir.KindRelabel, Detail: i.owner}, func(*statedir.Effect) error { return nil },
		func(ctx context.Context) error { _, err := i.relabels.Restore(ctx, i.owner); return err })
}

// apply labels files of the sandbox.
func (i *identity) apply(ctx context.Context, items ...relabel.Item) error {
	if !i.labels() || len(items) == 0 {
		return nil
	}
	report, err := i.relabels.Apply(ctx, i.owner, i.chosen.Level, items)
	if err != nil {
		return err
	}
	for _, u := range report.Unlabelled {
		err = errors.Join(err, errors.New(u.String()))
	}
	return err
}

// own labels a file or folder that the sandbox has made for itself.
func (i *identity) own(path string, label labels.Label) error {
	if !i.labels() {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return i.ownFile(f, label)
}

// ownFile is own for an open file.
func (i *identity) ownFile(f *os.File, label labels.Label) error {
	if !i.labels() {
		return nil
	}
	err := lsm.SetFileLabel(f, label)
	if errors.Is(err, lsm.ErrUnsupported) {
		err = fmt.Errorf("%w: put state on a file system that does (tmpfs, ext4, xfs), or mount it with context=%s", err, label)
	}
	return err
}

// sockets makes sockets that QEMU may use.
func (i *identity) sockets(create func() error) error { return i.driver.Sockets(i.chosen.QEMU, create) }

// check reads back from the kernel what runs, and that nobody else has come to
// carry the level meanwhile. No instruction of the guest has been executed.
func (s *Sandbox) check(ctx context.Context) error {
	i := s.identity
	if _, err := i.driver.Verify(s.files.Pid(), i.chosen.Virtiofsd, i.programs.Virtiofsd); err != nil {
		return fmt.Errorf("virtiofsd: %w", err)
	}
	if _, err := i.driver.Verify(s.machine.Pid(), i.chosen.QEMU, i.programs.QEMU); err != nil {
		return fmt.Errorf("qemu: %w", err)
	}
	if !i.labels() || i.wish.Share != "" {
		return nil
	}
	clash, err := i.registry.LookAgain(ctx, i.chosen.Level, func(pid int) bool { return pid == s.machine.Pid() || pid == s.files.Pid() })
	if err == nil && len(clash) > 0 {
		err = fmt.Errorf("level %s is carried by pid %d as well: %w", i.chosen.Level, clash[0].PID, mcs.ErrClash)
	}
	return err
}

// kernel answers the policy's self-test.
type kernel struct{ host lsm.Host }

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
