// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"cloister/labels"
)

// keptFolder holds one file per pair that files of a tenant carry for good. It survives reboots, as
// the files do.
const keptFolder = "kept"

// Kept is a pair that files carry while no sandbox runs: volumes that an engine or an administrator
// has labelled with it. Only the tenant that used them may be given the pair again, since whoever
// has the pair may use the files.
type Kept struct {
	Tenant string   `json:"tenant"`
	Paths  []string `json:"paths"`
}

// Keep notes that path carries level and is tenant's. It is called when a sandbox that holds the
// level uses a file whose label stays. A level without categories keeps nobody out and is not
// noted. A pair that is another tenant's gives ErrClash: the two would have each other's files.
func (r *Registry) Keep(ctx context.Context, tenant string, level labels.Level, path string) error {
	pair, ok := level.Pair()
	if !ok {
		return nil
	}
	if tenant == "" || !filepath.IsAbs(path) {
		return fmt.Errorf("keep %v: tenant %q and path %q: want a tenant and an absolute path", level, tenant, path)
	}
	lock, err := r.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close() // gives the lock back
	kept, err := r.kept(pair)
	if err != nil {
		return fmt.Errorf("keep %v: %w", level, err)
	}
	if kept.Tenant != "" && kept.Tenant != tenant {
		return fmt.Errorf("keep %v: %w", level, kept.refusal(level))
	}
	if slices.Contains(kept.Paths, path) {
		return nil
	}
	return r.storeKept(pair, Kept{Tenant: tenant, Paths: append(kept.Paths, path)})
}

// kept reads what is noted of a pair, without the paths that carry it no more. The zero value means
// that nobody keeps it. Paths are asked each time: an administrator may have labelled or removed
// the files since, and then the pair is free without a word to cloister. A label that cannot be
// read is an error, not a path less. The lock is held.
func (r *Registry) kept(pair labels.Pair) (Kept, error) {
	path := r.keptPath(pair)
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Kept{}, nil
	}
	if err != nil {
		return Kept{}, err
	}
	var k Kept
	if err := json.Unmarshal(text, &k); err != nil || k.Tenant == "" || len(k.Paths) == 0 {
		return Kept{}, fmt.Errorf("%w: %s: %w: remove it once no file carries its pair (cloister labels)",
			ErrCorrupt, path, errors.Join(err, errNoTenant))
	}
	if r.options.Carries == nil {
		return k, nil
	}
	left := make([]string, 0, len(k.Paths))
	for _, file := range k.Paths {
		carries, err := r.options.Carries(file, pair)
		if err != nil {
			return Kept{}, fmt.Errorf("label of kept file %s: %w", file, err)
		}
		if carries {
			left = append(left, file)
		}
	}
	switch len(left) {
	case len(k.Paths):
		return k, nil
	case 0:
		return Kept{}, os.Remove(path)
	}
	k.Paths = left
	return k, r.storeKept(pair, k)
}

var errNoTenant = errors.New("want a tenant and paths")

// checkKept refuses a pair that another tenant's files carry. Otherwise a pod's author could ask
// for the level of a stopped tenant and read what that tenant has left. The lock is held.
func (r *Registry) checkKept(tenant string, level labels.Level) error {
	pair, ok := level.Pair()
	if !ok {
		return nil
	}
	k, err := r.kept(pair)
	if err != nil || k.Tenant == "" || k.Tenant == tenant {
		return err
	}
	return k.refusal(level)
}

// refusal names one of the files, so that the operator can see whose they are and label them anew.
func (k Kept) refusal(level labels.Level) error {
	return fmt.Errorf("%w: %v is the level of %s, which belongs to tenant %s: choose another level, or give the files "+
		"another label (chcon -R -l)", ErrClash, level, k.Paths[0], k.Tenant)
}

// sweepKept forgets pairs that no file carries any more. It asks for every kept file, so it runs
// only when drawing at random has found nothing. The lock is held.
func (r *Registry) sweepKept() error {
	entries, err := os.ReadDir(filepath.Join(r.options.Dir, keptFolder))
	if err != nil {
		return err
	}
	var problems []error
	for _, e := range entries {
		set, err := labels.ParseSet(e.Name())
		if err != nil {
			continue // a file that is being written
		}
		if pair, ok := (labels.Level{Categories: set}).Pair(); ok {
			_, err = r.kept(pair)
			problems = append(problems, err)
		}
	}
	return errors.Join(problems...)
}

func (r *Registry) keptPath(pair labels.Pair) string {
	return filepath.Join(r.options.Dir, keptFolder, pair.String())
}

// storeKept puts a note in place at once, by a rename. The lock is held, so one temporary name is
// enough.
func (r *Registry) storeKept(pair labels.Pair, k Kept) error {
	text, err := json.Marshal(k)
	if err != nil {
		return err
	}
	temp := filepath.Join(r.options.Dir, keptFolder, tempFile)
	if err := os.WriteFile(temp, append(text, '\n'), 0o600); err != nil {
		return err
	}
	return os.Rename(temp, r.keptPath(pair))
}
