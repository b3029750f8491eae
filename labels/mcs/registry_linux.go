// SPDX-License-Identifier: Apache-2.0

package mcs

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"

	"cloister/labels"
	"cloister/labels/internal/flock"
	"cloister/sys"
)

// The lock and the kept pairs lie beside the boots' folders: both outlive a boot.
const (
	lockFile     = "lock"
	sharesFolder = "shares"
	tempFile     = "tmp" // written under the lock only, so one name is enough
)

// Options are what the registry is told. Its functions are called from any goroutine. Alive and the
// boot in Self are required.
type Options struct {
	// Dir is the registry's folder; it is made when absent.
	Dir string
	// Range is what is drawn from; zero means Whole.
	Range Range
	// Self is the process that answers for what is reserved. Its boot names the folder of entries.
	Self sys.Process
	// Alive tells whether an owner still runs: the same process, not another with its pid. An error
	// leaves the level held.
	Alive func(sys.Process) (bool, error)
	// Scan looks at what runs on the host, whoever started it; nil sees nothing. It finds the
	// guests and containers of engines that do not know this registry.
	Scan func(context.Context) ([]labels.Process, error)
	// Pending tells whether something of a sandbox is still to be undone; its level is kept until
	// then. Its files still carry the level, and a new holder could read them. nil: never.
	Pending func(sandbox string) (bool, error)
	// Held lists levels that files still carry from an earlier boot, whose entries are gone with
	// the boot's folder. nil: none.
	Held func() ([]labels.Level, error)
	// Carries tells whether a file that was given to Keep still carries a pair. nil: always.
	Carries func(path string, pair labels.Pair) (bool, error)
}

// Registry is the host's table of levels. It holds nothing in memory but its options: each call
// reads the folder, and changes it under the lock. So all cloister processes of the host see one
// state.
type Registry struct {
	options Options
	boot    string // the folder of this boot
	random  func(n int) (int, error)
}

// Open prepares the folder. What an earlier boot left holds nothing, since none of its processes
// lives; it is removed. Levels that files still carry are the journal's to tell (Options.Held). A
// folder that cannot be made usually has the wrong label, and the error says how to put that right.
func Open(o Options) (*Registry, error) {
	if o.Range == (Range{}) {
		o.Range = Whole()
	}
	if err := o.Range.check(); err != nil {
		return nil, fmt.Errorf("open the registry of levels: %w", err)
	}
	// The boot is a folder's name: one with a slash or a dot would lead elsewhere.
	if o.Alive == nil || o.Self.Boot == "" || strings.ContainsAny(o.Self.Boot, "/.") {
		return nil, errors.New("open the registry of levels: want Options.Self and Options.Alive")
	}
	r := &Registry{options: o, boot: filepath.Join(o.Dir, o.Self.Boot), random: uniform}
	for _, folder := range []string{
		filepath.Join(o.Self.Boot, pairsFolder),
		filepath.Join(o.Self.Boot, wideFolder), filepath.Join(o.Self.Boot, sharesFolder), keptFolder,
	} {
		if err := os.MkdirAll(filepath.Join(o.Dir, folder), 0o700); err != nil {
			return nil,
				fmt.Errorf("open the registry of levels: %w: %s must be a folder labelled as the policy has it: restorecon -RF %s",
					err, o.Dir, o.Dir)
		}
	}
	if err := r.removeEarlierBoots(); err != nil {
		return nil, fmt.Errorf("open the registry of levels: %w", err)
	}
	return r, nil
}

// removeEarlierBoots removes the folders of all boots but this one. Kept pairs stay: they describe
// files, which a reboot does not touch.
func (r *Registry) removeEarlierBoots() error {
	found, err := os.ReadDir(r.options.Dir)
	if err != nil {
		return err
	}
	for _, entry := range found {
		if entry.IsDir() && entry.Name() != r.options.Self.Boot && entry.Name() != keptFolder {
			if err := os.RemoveAll(filepath.Join(r.options.Dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// lock takes the registry's lock; the caller closes the file to give it back. The kernel gives it
// back when its holder dies, so a killed process blocks nobody.
func (r *Registry) lock(ctx context.Context) (*os.File, error) {
	f, err := flock.Take(ctx, filepath.Join(r.options.Dir, lockFile))
	if err != nil {
		return nil, fmt.Errorf("lock the registry of levels: %w", err)
	}
	return f, nil
}

// read gives the entry in a file of the boot's folder, and its bytes; fs.ErrNotExist when it is
// free. Files are replaced by a rename, so a reader without the lock sees an old entry or a new
// one, never half of one.
func (r *Registry) read(file string) (Entry, []byte, error) {
	path := filepath.Join(r.boot, file)
	text, err := os.ReadFile(path)
	if err != nil {
		return Entry{}, nil, err
	}
	e, err := decode(path, file, text)
	return e, text, err
}

// write puts an entry in place at once. The lock is held. Nothing is synced to disk: after a crash
// of the host the boot's folder means nothing.
func (r *Registry) write(e Entry) error {
	text, err := e.encode()
	if err != nil {
		return err
	}
	return r.replace(name(e.Level), text)
}

// replace writes a file of the boot's folder by a rename. The lock is held.
func (r *Registry) replace(file string, text []byte) error {
	temp := filepath.Join(r.boot, tempFile)
	if err := os.WriteFile(temp, text, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, filepath.Join(r.boot, file))
}

// exists tells whether a level is held, without reading by whom.
func (r *Registry) exists(file string) (bool, error) {
	_, err := os.Lstat(filepath.Join(r.boot, file))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// files lists the entries' files of a folder, in no order.
func (r *Registry) files(folder string) ([]string, error) {
	f, err := os.Open(filepath.Join(r.boot, folder))
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	names, err := f.Readdirnames(-1)
	for i := range names {
		names[i] = folder + "/" + names[i]
	}
	return names, err
}

// Entries reads everything that is held. It returns the entries it can read, and an error that
// names those it cannot.
func (r *Registry) Entries() ([]Entry, error) {
	var entries []Entry
	var problems []error
	for _, folder := range []string{pairsFolder, wideFolder} {
		files, err := r.files(folder)
		if err != nil {
			return nil, fmt.Errorf("read the registry of levels: %w", err)
		}
		for _, file := range files {
			e, _, err := r.read(file)
			switch {
			case errors.Is(err, fs.ErrNotExist):
			case err != nil:
				problems = append(problems, err)
			default:
				entries = append(entries, e)
			}
		}
	}
	return entries, errors.Join(problems...)
}

// uniform draws from 0 to n-1.
func uniform(n int) (int, error) {
	v, err := rand.Int(rand.Reader, big.NewInt(int64(n)))
	if err != nil {
		return 0, err
	}
	return int(v.Int64()), nil
}
