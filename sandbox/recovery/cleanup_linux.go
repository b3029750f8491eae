// SPDX-License-Identifier: Apache-2.0

package recovery

import (
	"context"
	"errors"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"cloister/sandbox/cgroup"
	"cloister/sandbox/confine"
	"cloister/sandbox/crun"
	"cloister/sandbox/network"
	"cloister/sandbox/statedir"
	"cloister/sandbox/tally"
	"cloister/sandbox/undo"
	"cloister/sys"
)

// Host says where the sandboxes of a host have their records and labels. It is a value of the
// configuration. State and Root must be those that the sandboxes were started with.
type Host struct {
	State  string         // folder of the records
	Root   string         // folder of the registry of levels and the journal of labels
	Labels confine.Config // how the host labels
	Trace  undo.Trace
}

// Cleanup takes back what a sandbox left whose shim is dead. A sandbox whose shim lives, and one
// that left nothing, is not touched. containerd's delete calls it for each task, also while the
// pod's machine runs, so it must be quick and must not touch what lives.
func (h Host) Cleanup(ctx context.Context, namespace, id string) error {
	dir, err := statedir.New(h.State, namespace, id)
	if err != nil {
		return err
	}
	return h.Collect(ctx, dir)
}

// CleanupAll is Cleanup for all sandboxes of the host, also for those of an earlier boot, whose
// records went with it. One that fails does not keep the others from being cleaned up. It names the
// sandboxes whose files got their labels back without a record. `cloister gc` calls it.
func (h Host) CleanupAll(ctx context.Context) (restored []string, err error) {
	dirs, err := statedir.List(h.State)
	if err != nil {
		return nil, err
	}
	errs := make([]error, 0, len(dirs))
	for _, dir := range dirs {
		errs = append(errs, h.Collect(ctx, dir))
	}
	restored, err = confine.RecoverAll(ctx, h.Labels, h.Root)
	return restored, errors.Join(append(errs, err)...)
}

// CollectNamespace is Collect for all sandboxes of a namespace.
func (h Host) CollectNamespace(ctx context.Context, namespace statedir.ID) error {
	dirs, err := statedir.List(h.State)
	for _, dir := range dirs {
		if dir.Namespace() == namespace {
			err = errors.Join(err, h.Collect(ctx, dir))
		}
	}
	return err
}

// Collect is Cleanup by the sandbox's folder. Effects are taken back newest first. If the record
// cannot be read, Found says what they are. It is safe against a shim that starts at the same
// moment: the record's lock decides. On an error the record keeps what is left, for the next try.
func (h Host) Collect(ctx context.Context, dir statedir.Dir) error {
	ctx, cancel := context.WithTimeout(ctx, undo.Limit)
	defer cancel()
	journal, err := statedir.Open(dir)
	if statedir.IsUnreadable(err) {
		log.G(ctx).WithField("sandbox",
			dir.ID()).WithError(err).Warn("the record is unreadable: cleaning up what the host shows of the sandbox")
		journal, err = statedir.Rebuild(dir, func() ([]statedir.Effect, error) { return h.Found(dir) })
	}
	// Nothing was left, or its owner lives.
	if errdefs.IsNotFound(err) || errdefs.IsUnavailable(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := journal.Undo(ctx, h.traced()); err != nil {
		return errors.Join(err, journal.Close())
	}
	h.Trace.Tell("record", "empty")
	// Counted once for each sandbox, when all of it is gone: an operator sees how often shims die.
	if err := tally.Add(h.State, func(c *tally.Counts) { c.Leaks++ }); err != nil {
		log.G(ctx).WithField("sandbox", dir.ID()).WithError(err).Warn("this cleanup is missing in the metrics")
	}
	return errors.Join(journal.Close(), RemoveFolder(dir))
}

// RemoveFolder removes a sandbox's state folder, and the folder of its namespace if that is empty
// then. The caller has no Journal of it open. A mount in it is an error: removal never crosses one.
func RemoveFolder(dir statedir.Dir) error {
	if err := sys.RemoveTree(dir.String()); err != nil {
		return err
	}
	_ = unix.Rmdir(filepath.Dir(dir.String())) // other sandboxes are in it, as a rule
	return nil
}

// traced are the undoers, each of which tells when it is done.
func (h Host) traced() map[statedir.Kind]statedir.Undoer {
	all := h.undoers()
	for kind, undo := range all {
		all[kind] = func(ctx context.Context, e statedir.Effect) error {
			err := undo(ctx, e)
			h.Trace.Effect(e, "taken back")
			return err
		}
	}
	return all
}

// undoers take back each kind of effect that a sandbox makes. A kind that is not here is an error
// of Undo, and stays in the record.
func (h Host) undoers() map[statedir.Kind]statedir.Undoer {
	return map[statedir.Kind]statedir.Undoer{
		statedir.KindProcess: statedir.UndoProcess,
		statedir.KindLink: func(_ context.Context, e statedir.Effect) error {
			// Without a range that is known the host side's is left as it is.
			identity, ports, _ := strings.Cut(e.Detail, "\t")
			return network.RestoreAt(e.Path, identity, ports)
		},
		statedir.KindContainer: func(ctx context.Context, e statedir.Effect) error {
			return crun.Delete(ctx, e.Detail, filepath.Dir(e.Path), filepath.Base(e.Path))
		},
		statedir.KindCgroup: func(ctx context.Context, e statedir.Effect) error {
			group, err := cgroup.At(e.Path)
			if err != nil {
				return err
			}
			// The leaf is the sandbox's own by its name, so everything in it is.
			return errors.Join(group.Kill(), group.Remove(ctx))
		},
		statedir.KindReservation: func(ctx context.Context, e statedir.Effect) error {
			return confine.Recover(ctx, h.Labels, h.Root, e.Detail)
		},
	}
}
