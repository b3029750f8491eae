// SPDX-License-Identifier: Apache-2.0

package process

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"

	"cloister/labels"
	"cloister/oci"
	"cloister/sandbox/confine"
	"cloister/sandbox/recovery"
	"cloister/sandbox/statedir"
	"cloister/sandbox/undo"
)

// sandbox is what the containers of a pod, or one container alone, have in common. It is made by
// open, does not change after it, and ends with close.
type sandbox struct {
	config   Config
	dir      statedir.Dir
	journal  *statedir.Journal
	confine  confine.Driver
	identity confine.Identity
	memory   string // where the engine has the pod's shared memory; empty for none
	mount    string // linux.mountLabel of its first container
	null     *os.File
}

// suits refuses a later container whose engine asks for another type than the sandbox has. All
// containers of a pod run in one domain: two would need two labels on the pod's shared files. A
// type that nobody chose, such as container_t, is no wish and suits.
func (s *sandbox) suits(w *oci.Workload) error {
	if s.identity.Label.IsZero() {
		return checkProfile(s.identity.MAC, s.config.Host.Labels, w.Labels.Profile)
	}
	wish, err := confine.Wish(confine.SELinux, s.config.Host.Labels, w.Settings.Labels, w.Labels)
	if err != nil || wish.Mode == labels.Static {
		return err
	}
	if t := wish.EngineType(); t != "" && t != s.identity.Label.Type {
		return fmt.Errorf("process.selinuxLabel: type %s: the containers of this pod run as %s: "+
			"set the type on the pod, or leave it out: %w", t, s.identity.Label.Type, errdefs.ErrInvalidArgument)
	}
	return confine.SuitsPod(s.identity.Label, s.mount, w.Labels.Mount)
}

// open reserves an identity for a sandbox that is named after its first container. On an error
// nothing is left. The order is that of a machine's start: what cannot be honoured is refused
// first, then the record is made, then the identity is reserved.
func open(ctx context.Context, cfg Config, namespace, id, bundle string, w *oci.Workload) (s *sandbox, err error) {
	s = &sandbox{config: cfg, memory: w.OwnMemory(bundle), mount: w.Labels.Mount}
	owner := namespace + "/" + id
	chosen, err := confine.Chosen(cfg.Host.Labels)
	if err != nil {
		return nil, err
	}
	if err := checkProfile(chosen, cfg.Host.Labels, w.Labels.Profile); err != nil {
		return nil, err
	}
	wish, err := confine.Wish(chosen, cfg.Host.Labels, w.Settings.Labels, w.Labels)
	if err != nil {
		return nil, err
	}
	if wish.EngineType() != "" && wish.Base.IsZero() && wish.Mode != labels.Static {
		wish.Base = wish.Engine // label=type:TYPE: the policy decides whether the shim may start it
	}
	types := labels.Candidates(true) // with KVM or without is a machine's difference
	for i, t := range types {
		types[i] = wish.Types(t.Plain())
	}
	s.confine, err = confine.Open(confine.Options{
		Config: cfg.Host.Labels, Root: cfg.Host.Root, Sandbox: owner, Tenant: path.Join(namespace, w.PodNamespace),
		Annotations: w.Settings.Labels, Chosen: chosen, Wish: wish, Types: types,
	})
	if err != nil {
		return nil, err
	}
	if s.dir, err = statedir.New(cfg.Host.State, namespace, id); err != nil {
		return nil, err
	}
	// A sandbox of that name whose shim was killed is taken back first. Beside a living one,
	// statedir.Create below fails.
	if err := cfg.Host.Collect(ctx, s.dir); err != nil {
		return nil, err
	}
	if s.journal, err = statedir.Create(s.dir, bundle); err != nil {
		return nil, err
	}
	made := s // s is what is returned: nil after an error
	defer func() {
		if err != nil {
			err = errors.Join(err, made.close(ctx))
		}
	}()
	if err := s.do(statedir.Effect{Kind: statedir.KindReservation, Detail: owner}, func(*statedir.Effect) (err error) {
		s.identity, err = s.confine.Reserve(ctx)
		return err
	}); err != nil {
		return nil, err
	}
	if s.null, err = openNull(text(s.identity.Files)); err != nil {
		return nil, err
	}
	// What ps, inspect and why show of a sandbox without asking its shim.
	facts := map[string]string{"class": string(oci.ClassProcess), "runtime": cfg.Runtime, "level": s.identity.Level.String()}
	if !s.identity.Label.IsZero() {
		facts["label"] = s.identity.Label.String()
	}
	if s.identity.Profile != "" {
		facts["profile"] = s.identity.Profile
	}
	return s, s.journal.Note(facts, nil)
}

// do makes an effect, which is on disk before it happens. An error of act leaves the promise in the
// record: the effect may have happened in part. The caller's remove, or gc after a crash, takes it
// back.
func (s *sandbox) do(e statedir.Effect, act func(*statedir.Effect) error) error {
	seq, err := s.journal.Promise(e)
	if err != nil {
		return err
	}
	s.trace(e, "promised")
	if err := act(&e); err != nil {
		return err
	}
	s.trace(e, "made")
	// The process is known only now. A cleanup that finds none kills by the cgroup.
	err = s.journal.Done(seq, func(stored *statedir.Effect) { stored.Process = e.Process })
	s.trace(e, "written")
	return err
}

// forget strikes out the effects that have been taken back. It is called after the undo has
// succeeded, never before.
func (s *sandbox) forget(gone func(statedir.Effect) bool) error {
	var errs []error
	for _, e := range s.journal.Record().Effects {
		if gone(e) {
			errs = append(errs, s.journal.Forget(e.Seq))
			s.trace(e, "undone")
		}
	}
	return errors.Join(errs...)
}

// trace tells crash tests of each moment; they kill the shim there.
func (s *sandbox) trace(e statedir.Effect, moment string) { s.config.Host.Trace.Effect(e, moment) }

// reached says that a part of a call is over; for crash tests.
func (s *sandbox) reached(part string) { s.config.Host.Trace.Tell(part, "reached") }

// close gives back the identity and removes the record. All containers are gone. The identity goes
// before the record: a record without an identity costs a cleanup nothing. An identity without a
// record would be held until the registry finds its owner dead.
func (s *sandbox) close(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), undo.Limit)
	defer cancel()
	if s.null != nil {
		_ = s.null.Close() // nothing was written
	}
	if err := s.confine.Release(ctx); err != nil {
		return errors.Join(err, s.journal.Close()) // gc takes it back from the record
	}
	err := errors.Join(s.forget(func(e statedir.Effect) bool { return e.Kind == statedir.KindReservation }), s.journal.Close())
	if err != nil {
		return err
	}
	return recovery.RemoveFolder(s.dir)
}

// bundle is our bundle of a container.
func (s *sandbox) bundle(id string) string { return filepath.Join(s.dir.String(), "containers", id) }

// runtimeRoot is where containerd's service has the OCI runtime keep its state of a namespace. The
// service adds the namespace to the root that it is given.
func (s *sandbox) runtimeRoot() string {
	return filepath.Join(s.dir.RuntimeRoot(), string(s.dir.Namespace()))
}
