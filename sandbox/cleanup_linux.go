// SPDX-License-Identifier: Apache-2.0

package sandbox

import (
	"context"
	"errors"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/statedir"
)

// Cleanup takes back what a sandbox left whose shim is dead. A sandbox that
// lives, and one that left nothing, is not touched.
func Cleanup(ctx context.Context, cfg Config, namespace, id string) error {
	cfg = cfg.withDefaults()
	dir, err := statedir.New(cfg.State, namespace, id)
	if err != nil {
		return err
	}
	return collect(ctx, cfg, dir)
}

// CleanupAll is Cleanup for everything that dead shims left on this host.
func CleanupAll(ctx context.Context, cfg Config) error {
	cfg = cfg.withDefaults()
	dirs, err := statedir.List(cfg.State)
	if err != nil {
		return err
	}
	errs := make([]error, 0, len(dirs))
	for _, dir := range dirs {
		errs = append(errs, collect(ctx, cfg, dir))
	}
	return errors.Join(errs...)
}

// collect undoes a record whose owner is dead, newest effect first. What a record that
// cannot be read does not say is looked up on the host.
func collect(ctx context.Context, cfg Config, dir statedir.Dir) error {
	ctx, cancel := context.WithTimeout(ctx, undoLimit)
	defer cancel()
	journal, err := statedir.Open(dir)
	if statedir.IsUnreadable(err) {
		log.G(ctx).WithField("sandbox", dir.ID()).WithError(err).Warn("what the host shows of the sandbox is taken back")
		journal, err = statedir.Rebuild(dir, func() ([]statedir.Effect, error) { return Found(cfg, dir) })
	}
	if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	err = journal.Undo(ctx, traced(cfg))
	if err != nil {
		return errors.Join(err, journal.Close())
	}
	if cfg.Trace != nil {
		cfg.Trace("record", "empty")
	}
	return errors.Join(journal.Close(), removeRun(dir))
}

// traced are the undoers, each of which tells when it is done.
func traced(cfg Config) map[statedir.Kind]statedir.Undoer {
	all := undoers(cfg)
	for kind, undo := range all {
		all[kind] = func(ctx context.Context, e statedir.Effect) error {
			err := undo(ctx, e)
			cfg.trace(e, "taken back")
			return err
		}
	}
	return all
}

// undoers take back each kind of effect that a sandbox makes.
func undoers(cfg Config) map[statedir.Kind]statedir.Undoer {
	return map[statedir.Kind]statedir.Undoer{
		statedir.KindProcess: statedir.UndoProcess,
		statedir.KindLink:    releaseNetwork,
		statedir.KindCgroup: func(ctx context.Context, e statedir.Effect) error {
			group, err := cgroup.At(e.Path)
			if err != nil {
				return err
			}
			return errors.Join(group.Kill(), group.Remove(ctx))
		},
		statedir.KindReservation: func(ctx context.Context, e statedir.Effect) error {
			return confine.Recover(ctx, cfg.Labels, cfg.Root, e.Detail)
		},
	}
}
