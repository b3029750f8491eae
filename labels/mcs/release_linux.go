// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"cloister/labels"
	"cloister/sys"
)

// Release gives a sandbox's hold on a level back. It is called when the sandbox's processes have
// ended and its files have their old labels back: from then on somebody else may draw the level. A
// level that the sandbox does not hold is left alone without an error, so that an undo can be
// repeated. A shared level stays with those who still hold it.
func (r *Registry) Release(ctx context.Context, sandbox string, level labels.Level) error {
	lock, err := r.lock(ctx)
	if err != nil {
		return fmt.Errorf("release %v: %w", level, err)
	}
	defer lock.Close() // gives the lock back
	e, _, err := r.read(name(level))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("release %v: %w", level, err)
	}
	if err := r.drop(e, func(h Holder) bool { return h.Sandbox == sandbox }); err != nil {
		return fmt.Errorf("release %v: %w", level, err)
	}
	return nil
}

// Redraw gives a sandbox another pair in place of a drawn one that somebody else has come to carry.
// The old one is given back last, so the sandbox always holds one. A level that was asked for, or
// is shared, is ErrLevel: nobody but who chose it can say what to take instead.
func (r *Registry) Redraw(ctx context.Context, sandbox string, old Entry) (Entry, error) {
	if old.Kind != Dynamic {
		return Entry{}, fmt.Errorf("redraw %v: %w: it is %s", old.Level, ErrLevel, old.Kind)
	}
	e, err := r.Reserve(ctx, Request{Sandbox: sandbox})
	if err != nil {
		return Entry{}, err
	}
	if err := r.Release(ctx, sandbox, old.Level); err != nil {
		return Entry{}, errors.Join(err, r.Release(context.WithoutCancel(ctx), sandbox, e.Level))
	}
	return e, nil
}

// drop takes holders out, and the entry with the last one. The entry goes before the share's name:
// a name without an entry is not followed, but an entry without a name would be held by nobody who
// can join it. The lock is held.
func (r *Registry) drop(e Entry, gone func(Holder) bool) error {
	left := slices.DeleteFunc(slices.Clone(e.Holders), gone)
	switch len(left) {
	case len(e.Holders):
		return nil
	case 0:
		if err := os.Remove(filepath.Join(r.boot, name(e.Level))); err != nil {
			return err
		}
		return r.dropShare(e)
	}
	e.Holders = left
	return r.write(e)
}

// dropShare removes the name of a share whose entry is gone. One that outlives its entry, after a
// crash, points at nothing and is not followed; one that points elsewhere has been taken over.
func (r *Registry) dropShare(e Entry) error {
	if e.Share == "" {
		return nil
	}
	path := filepath.Join(r.boot, sharesFolder, e.Share)
	target, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || string(target) != name(e.Level) {
		return err
	}
	return os.Remove(path)
}

// Reclaim gives back what dead owners hold, unless a process still carries the level or something
// of the sandbox is still to be undone. The first keeps a level from being given out while the dead
// owner's QEMU runs, the second while the sandbox's files carry it. It returns the entries as they
// were. Entries that cannot be read stay held, and the error names them.
func (r *Registry) Reclaim(ctx context.Context) ([]Entry, error) {
	dead, problems := r.dead()
	if len(dead) == 0 {
		return nil, problems
	}
	// Looked at after the owners were found dead: what they started is visible by now.
	seen, err := r.look(ctx)
	if err != nil {
		return nil, errors.Join(problems, fmt.Errorf("reclaim levels: %w", err))
	}
	var freed []Entry
	for _, d := range dead {
		if seen.carries(d.entry.Level) {
			continue
		}
		ok, err := r.reclaimOne(ctx, d)
		if err != nil {
			return freed, errors.Join(problems, fmt.Errorf("reclaim %v: %w", d.entry.Level, err))
		}
		if ok {
			freed = append(freed, d.entry)
		}
	}
	return freed, problems
}

// corpse is an entry with holders whose owner is dead, as it was read. The bytes tell later, under
// the lock, whether the entry is still the same.
type corpse struct {
	entry Entry
	text  []byte
	gone  []Holder
}

// dead finds entries with dead holders, without the lock: asking for thousands of owners would hold
// up every start on the host. One entry that cannot be read keeps no other from being found.
func (r *Registry) dead() ([]corpse, error) {
	var found []corpse
	var problems []error
	alive := map[sys.Process]bool{}
	for _, folder := range []string{pairsFolder, wideFolder} {
		files, err := r.files(folder)
		if err != nil {
			return nil, fmt.Errorf("reclaim levels: %w", err)
		}
		for _, file := range files {
			e, text, err := r.read(file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				problems = append(problems, err)
				continue
			}
			gone, err := r.deadHolders(e, alive)
			if err != nil {
				problems = append(problems, err)
			}
			if len(gone) > 0 {
				found = append(found, corpse{e, text, gone})
			}
		}
	}
	return found, errors.Join(problems...)
}

// deadHolders lists the holders whose owner is dead and whose sandbox has nothing left to undo.
// alive remembers the answers: one shim can be the owner of many holds.
func (r *Registry) deadHolders(e Entry, alive map[sys.Process]bool) ([]Holder, error) {
	var gone []Holder
	for _, h := range e.Holders {
		lives, known := alive[h.Owner]
		if !known {
			var err error
			if lives, err = r.options.Alive(h.Owner); err != nil {
				return nil, fmt.Errorf("reclaim %v: %w", e.Level, err)
			}
			alive[h.Owner] = lives
		}
		if lives {
			continue
		}
		if r.options.Pending != nil {
			pending, err := r.options.Pending(h.Sandbox)
			if err != nil {
				return nil, fmt.Errorf("reclaim %v: %w", e.Level, err)
			}
			if pending {
				continue
			}
		}
		gone = append(gone, h)
	}
	return gone, nil
}

// reclaimOne drops the dead holders of one entry, under the lock. An entry that has changed since
// it was looked at is left for the next time.
func (r *Registry) reclaimOne(ctx context.Context, d corpse) (bool, error) {
	lock, err := r.lock(ctx)
	if err != nil {
		return false, err
	}
	defer lock.Close() // gives the lock back
	e, text, err := r.read(name(d.entry.Level))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if !bytes.Equal(text, d.text) { // somebody was faster, or joined
		return false, nil
	}
	return true, r.drop(e, func(h Holder) bool { return slices.Contains(d.gone, h) })
}
