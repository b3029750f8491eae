// SPDX-License-Identifier: Apache-2.0

package confine

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/containerd/log"

	"cloister/labels"
	"cloister/labels/apparmor"
	"cloister/labels/lsm"
	"cloister/labels/mcs"
	"cloister/labels/relabel"
	"cloister/sys"
)

// keepers remember what sandboxes hold on this host, so that whoever comes next can give it back.
// All sandboxes and engines of the host share them; each locks for itself.
type keepers struct {
	registry *mcs.Registry     // of levels
	relabels *relabel.Journal  // of relabelled files
	profiles *apparmor.Journal // of AppArmor's profiles
}

// Recover gives back what the dead sandbox of that name left: first the labels of files and its
// profile, then all levels whose owners are dead. It may be repeated. The order is that of Release:
// a level that is still on a file or process must not be given out. sandbox is NAMESPACE/ID. An
// error leaves the rest for the next try.
func Recover(ctx context.Context, c Config, root, sandbox string) error {
	k, err := open(c, root, lsm.Host{}, apparmor.Host{})
	if err != nil {
		return err
	}
	if _, err := k.relabels.Restore(ctx, sandbox); err != nil {
		return err
	}
	if err := k.profiles.Restore(ctx, sandbox); err != nil {
		return err
	}
	_, err = k.registry.Reclaim(ctx)
	return err
}

// RecoverAll is Recover for all dead sandboxes that registry or journals have something of, of any
// boot. It names those whose files got their labels back. What a living process carries stays. On a
// host without either it makes none.
func RecoverAll(ctx context.Context, c Config, root string) ([]string, error) {
	if _, err := os.Stat(root); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	k, err := open(c, root, lsm.Host{}, apparmor.Host{})
	if err != nil {
		return nil, err
	}
	restored, relabelErr := k.relabels.Replay(ctx)
	profileErr := k.profiles.Replay(ctx)
	_, err = k.registry.Reclaim(ctx) // what is still to be undone keeps its level
	return restored, errors.Join(relabelErr, profileErr, err)
}

// Held reports whether registry or journals have something of a sandbox. It is asked where the
// record cannot be read. It has no effect.
func Held(c Config, root, sandbox string) (bool, error) {
	k, err := open(c, root, lsm.Host{}, apparmor.Host{})
	if err != nil {
		return false, err
	}
	if pending, err := k.pending(sandbox); err != nil || pending {
		return pending, err
	}
	entries, err := k.registry.Entries()
	return slices.ContainsFunc(entries, func(e mcs.Entry) bool {
		return slices.ContainsFunc(e.Holders, func(h mcs.Holder) bool { return h.Sandbox == sandbox })
	}), err
}

// pending reports whether something of a sandbox is still to be undone: its level stays held until
// then.
func (k keepers) pending(sandbox string) (bool, error) {
	if pending, err := k.relabels.Pending(sandbox); err != nil || pending {
		return pending, err
	}
	return k.profiles.Pending(sandbox)
}

// open opens the registry and both journals. They are folders below root, which are made when there
// is something to keep. Zero hosts stand for this machine's kernel.
func open(c Config, root string, host lsm.Host, profiles apparmor.Host) (k keepers, err error) {
	self, err := sys.Self()
	if err != nil {
		return k, err
	}
	scan := func(ctx context.Context) ([]labels.Process, error) {
		seen, err := host.Processes(ctx)
		// A shim in a container, or one that a policy keeps from reading others, sees a part of the
		// host. The drawn level is still looked at again before the guest runs.
		if seen.Hidden > 0 {
			log.G(ctx).WithField("hidden",
				seen.Hidden).Warn("labels of some processes cannot be read: a sandbox may get a level that one of them has")
		}
		return seen.Processes, err
	}
	k.relabels, err = relabel.Open(relabel.Options{
		Dir: filepath.Join(root, "relabel"), Self: self, Alive: sys.Process.Alive, AllowWholeDisks: c.AllowWholeDisks,
		Carried: func(ctx context.Context, level labels.Level) (bool, error) { return carried(ctx, scan, level) },
	})
	if err != nil {
		return k, err
	}
	k.profiles, err = apparmor.Open(apparmor.Options{
		Dir: filepath.Join(root, "apparmor"), Self: self, Alive: sys.Process.Alive, Host: profiles,
	})
	if err != nil {
		return k, err
	}
	span, err := span(c, host)
	if err != nil {
		return k, err
	}
	k.registry, err = mcs.Open(mcs.Options{
		Dir: filepath.Join(root, "mcs"), Range: span, Self: self, Alive: sys.Process.Alive, Scan: scan,
		Pending: k.pending, Held: k.relabels.Held, Carries: carriesPair,
	})
	return k, err
}

// span is what pairs are drawn from. A shim whose own range is smaller than the host's must not
// draw what it could not give to a process.
func span(c Config, host lsm.Host) (mcs.Range, error) {
	if c.Range != "" {
		r, err := mcs.ParseRange(c.Range)
		if err != nil {
			return r, fmt.Errorf("labels.range: %w", err)
		}
		return r, nil
	}
	enabled, err := host.Enabled()
	if err != nil || !enabled {
		return mcs.Whole(), err
	}
	own, err := host.OwnLabel()
	if err != nil {
		return mcs.Range{}, err
	}
	return mcs.RangeOf(own)
}

// carried reports whether a process runs at exactly that level: its files must keep their label
// until it has ended.
func carried(ctx context.Context, scan func(context.Context) ([]labels.Process, error), level labels.Level) (bool, error) {
	all, err := scan(ctx)
	for _, p := range all {
		if own, ok := p.Label.Range.Single(); ok && own == level {
			return true, nil
		}
	}
	return false, err
}

// carriesPair reports whether a volume still carries a pair. One that is gone, or whose label is no
// label any more, does not. It is asked of volumes that a stopped tenant has kept; one that carries
// no pair any more frees it.
func carriesPair(path string, pair labels.Pair) (bool, error) {
	have, err := lsm.PathLabel(path)
	if err != nil {
		return false, nil //nolint:nilerr // the file is gone or has no label, and then it has no pair
	}
	return have.Range.High.Categories == pair.Set(), nil
}
