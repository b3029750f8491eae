// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"cloister/labels"
)

// Errors that a caller tells apart. ErrClash and ErrExhausted may pass when other sandboxes end;
// ErrLevel is a wish that never fits.
var (
	ErrClash     = errors.New("level is held by somebody else")
	ErrExhausted = errors.New("no pair of categories is free")
	ErrLevel     = errors.New("level cannot be reserved")
)

// draws bounds the drawing; after that every pair is tried in turn. libvirt draws without a bound,
// and never returns once its range is full. With half of all pairs taken, 64 draws find none once
// in 2^64 starts.
const draws = 64

// Request is what a sandbox wants. The zero Level, Tenant and Share are the usual case: a pair of
// its own, drawn.
type Request struct {
	// Sandbox names it, unique on the host, in at most 512 bytes. Release and Reclaim know the hold
	// by it.
	Sandbox string
	// Level is a level asked for by the engine or the config; nil draws a pair.
	Level *labels.Level
	// Tenant is who the sandbox belongs to. A pair that another tenant's files carry (Keep) is
	// refused.
	Tenant string
	// Share, when not empty, holds the level together with all who give the same name, and with
	// nobody else. At most 64 bytes, no slash.
	Share string
}

// Reserve holds a level for a sandbox until it is released, or reclaimed from a dead owner. The
// caller records the wish to reserve before it calls, since a crash right after leaves an entry
// whose owner is dead. A level that is held, or seen on the host, is ErrClash. A level that keeps
// nobody apart is ErrLevel. ErrExhausted means that no pair is free, and has the counts that tell
// why.
func (r *Registry) Reserve(ctx context.Context, q Request) (Entry, error) {
	if err := q.check(); err != nil {
		return Entry{}, fmt.Errorf("reserve a level: %w", err)
	}
	seen, err := r.look(ctx)
	if err != nil {
		return Entry{}, fmt.Errorf("reserve a level: %w", err)
	}
	e, err := r.reserveOnce(ctx, q, seen)
	if errors.Is(err, ErrExhausted) || errors.Is(err, ErrClash) { // a dead owner may be in the way
		if _, reclaiming := r.Reclaim(ctx); reclaiming != nil {
			return Entry{}, fmt.Errorf("reserve a level: %w", errors.Join(err, reclaiming))
		}
		e, err = r.reserveOnce(ctx, q, seen)
	}
	if err != nil {
		return Entry{}, fmt.Errorf("reserve a level: %w", err)
	}
	return e, nil
}

// check refuses names that cannot be a file's and levels that do not separate tenants. A single
// category is refused even by name: it lies within every pair that has it (CVE-2021-3631).
func (q Request) check() error {
	if err := checkName("sandbox", q.Sandbox, 512); err != nil {
		return err
	}
	if q.Share != "" {
		if err := checkName("share", q.Share, 64); err != nil {
			return err
		}
	}
	if q.Level == nil {
		return nil
	}
	if err := q.Level.Separates(q.Share != ""); err != nil {
		return fmt.Errorf("%w: %w", ErrLevel, err)
	}
	return nil
}

// reserveOnce does one attempt under the lock. The entry is written before the name of its share:
// after a crash in between, the entry is reclaimed like any other and the name does not exist.
func (r *Registry) reserveOnce(ctx context.Context, q Request, seen *taken) (Entry, error) {
	lock, err := r.lock(ctx)
	if err != nil {
		return Entry{}, err
	}
	defer lock.Close() // gives the lock back
	holder := Holder{Sandbox: q.Sandbox, Owner: r.options.Self}
	if q.Share != "" {
		joined, e, err := r.join(q, holder)
		if err != nil || joined {
			return e, err
		}
	}
	e := Entry{Kind: Dynamic, Share: q.Share, Holders: []Holder{holder}}
	if q.Level != nil {
		e.Kind, e.Level = Static, *q.Level
		if err = r.checkKept(q.Tenant, e.Level); err == nil {
			err = r.checkFree(q, seen)
		}
	} else {
		e.Level, err = r.draw(seen)
	}
	if err != nil {
		return Entry{}, err
	}
	if q.Share != "" {
		e.Kind = Shared
	}
	if err := r.write(e); err != nil {
		return Entry{}, err
	}
	if q.Share != "" {
		if err := r.replace(sharesFolder+"/"+q.Share, []byte(name(e.Level))); err != nil {
			return Entry{}, errors.Join(err, os.Remove(filepath.Join(r.boot, name(e.Level))))
		}
	}
	return e, nil
}

// join adds a holder to the share of a name, if there is one. A share's file may point at what is
// no longer held, or at an entry that another share has by now; both mean that the share does not
// exist. A holder that joins again, as after a restart, is counted once.
func (r *Registry) join(q Request, holder Holder) (bool, Entry, error) {
	file, err := os.ReadFile(filepath.Join(r.boot, sharesFolder, q.Share))
	if errors.Is(err, fs.ErrNotExist) {
		return false, Entry{}, nil
	}
	if err != nil {
		return false, Entry{}, err
	}
	// The content is joined to a path below: only the two folders of entries are followed.
	folder := filepath.Dir(string(file))
	if folder != pairsFolder && folder != wideFolder {
		return false, Entry{}, corrupt(filepath.Join(r.boot, sharesFolder, q.Share), fmt.Errorf("points at %q", file))
	}
	e, _, err := r.read(string(file))
	if errors.Is(err, fs.ErrNotExist) || (err == nil && e.Share != q.Share) {
		return false, Entry{}, nil
	}
	if err != nil {
		return false, Entry{}, err
	}
	if q.Level != nil && *q.Level != e.Level {
		return false, Entry{}, fmt.Errorf("%w: share %q is at %v, not %v", ErrLevel, q.Share, e.Level, *q.Level)
	}
	e.Holders = slices.DeleteFunc(e.Holders, func(h Holder) bool { return h.Sandbox == q.Sandbox })
	e.Holders = append(e.Holders, holder)
	return true, e, r.write(e)
}

// checkFree refuses a level asked for that clashes with anything. A pair can clash with the same
// pair and with wide levels, a wide level with everything, so only those files are read. An entry
// that cannot be read is an error: what it holds is not known. The lock is held.
func (r *Registry) checkFree(q Request, seen *taken) error {
	level := *q.Level
	files, err := r.files(wideFolder)
	if err != nil {
		return err
	}
	if pair, ok := level.Pair(); ok {
		file := pairsFolder + "/" + pair.String()
		held, err := r.exists(file)
		if err != nil {
			return err
		}
		if held {
			files = append(files, file)
		}
	} else {
		pairs, err := r.files(pairsFolder)
		if err != nil {
			return err
		}
		files = append(files, pairs...)
	}
	for _, file := range files {
		e, _, err := r.read(file)
		if err != nil {
			return err
		}
		if e.Level.Clashes(level) {
			return fmt.Errorf("%w: %v clashes with %v of sandbox %s (%v): choose another, or share it by name",
				ErrClash, level, e.Level, e.Holders[0].Sandbox, e.Holders[0].Owner)
		}
	}
	if p, found := seen.files.clash(level); found {
		return fmt.Errorf("%w: %v clashes with %v, which files of an earlier boot carry: mount the volume that they are on and "+
			"run cloister gc, which gives them their labels back, or choose another level", ErrClash, level, p.Label.Range.High)
	}
	if q.Share != "" {
		return nil // who shares by name has said that other processes may be there
	}
	if p, found := seen.processes.clash(level); found {
		return fmt.Errorf("%w: %v clashes with %v of pid %d: choose another, or share it by name", ErrClash,
			level, p.Label.Range.High, p.PID)
	}
	return nil
}

// draw finds a free pair: at random a bounded number of times, then by trying all from a random one
// on. A draw costs a few lookups by name, whatever is held (0.13 ms with 5,000 pairs). The lock is
// held.
func (r *Registry) draw(seen *taken) (labels.Level, error) {
	wide, err := r.wideLevels()
	if err != nil {
		return labels.Level{}, err
	}
	first, n := r.options.Range.Min, int(r.options.Range.Max-r.options.Range.Min)+1
	free := func(p labels.Pair) bool {
		level := labels.NewLevel(r.options.Range.Sensitivity, p)
		return !seen.carries(level) && !slices.ContainsFunc(wide, level.Clashes)
	}
	for range draws {
		a, err := r.random(n)
		if err != nil {
			return labels.Level{}, err
		}
		b, err := r.random(n)
		if err != nil {
			return labels.Level{}, err
		}
		pair, err := labels.NewPair(first+labels.Category(a), first+labels.Category(b))
		if err != nil || !free(pair) {
			continue
		}
		held, err := r.exists(pairsFolder + "/" + pair.String())
		if err != nil {
			return labels.Level{}, err
		}
		kept, err := r.kept(pair)
		if err != nil {
			return labels.Level{}, err
		}
		if !held && kept.Tenant == "" {
			return labels.NewLevel(r.options.Range.Sensitivity, pair), nil
		}
	}
	return r.enumerate(free, seen.processes.len()+seen.files.len())
}

// enumerate goes through all pairs once, from a random category on. Kept pairs are swept before:
// some may have become free. When nothing is free, the error has the counts, since it depends on
// them what the operator can do.
func (r *Registry) enumerate(free func(labels.Pair) bool, seen int) (labels.Level, error) {
	files, err := r.files(pairsFolder)
	if err != nil {
		return labels.Level{}, err
	}
	held := make(map[string]bool, len(files))
	for _, file := range files {
		held[strings.TrimPrefix(file, pairsFolder+"/")] = true
	}
	if err := r.sweepKept(); err != nil {
		return labels.Level{}, err
	}
	kept, err := os.ReadDir(filepath.Join(r.options.Dir, keptFolder))
	if err != nil {
		return labels.Level{}, err
	}
	for _, entry := range kept {
		held[entry.Name()] = true
	}
	first, n := r.options.Range.Min, int(r.options.Range.Max-r.options.Range.Min)+1
	start, err := r.random(n)
	if err != nil {
		return labels.Level{}, err
	}
	for i := range n {
		a := first + labels.Category((start+i)%n)
		for b := a + 1; b <= r.options.Range.Max; b++ {
			if pair := (labels.Pair{Low: a, High: b}); !held[pair.String()] && free(pair) {
				return labels.NewLevel(r.options.Range.Sensitivity, pair), nil
			}
		}
	}
	return labels.Level{},
		fmt.Errorf("%w: %v has %d pairs; %d are in the registry, %d are of kept files and %d levels are seen on the host: "+
			"widen the range in the config, or see who holds them with cloister labels",
			ErrExhausted, r.options.Range, r.options.Range.Pairs(), len(files), len(kept), seen)
}

// wideLevels lists the levels that are not pairs. Each of them may contain the pair that is drawn,
// so their contents are read, not their names alone.
func (r *Registry) wideLevels() ([]labels.Level, error) {
	files, err := r.files(wideFolder)
	if err != nil {
		return nil, err
	}
	var levels []labels.Level
	for _, file := range files {
		e, _, err := r.read(file)
		if err != nil {
			return nil, err
		}
		levels = append(levels, e.Level)
	}
	return levels, nil
}
