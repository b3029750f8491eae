// SPDX-License-Identifier: Apache-2.0

package apparmor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"cloister/labels/internal/flock"
	"cloister/sys"
)

// ErrCorrupt is wrapped when a file of the journal cannot be what cloister wrote. The profile stays
// loaded, and the error names the file.
var ErrCorrupt = errors.New("corrupt journal of profiles")

const (
	lockFile = "lock"
	tempFile = "tmp" // written under the lock only, so one name is enough
)

// Options are what the journal is told. Alive and the boot in Self are required.
type Options struct {
	// Dir is the journal's folder, on a disk that survives a reboot; it is made when absent.
	// Profiles do not survive one: the entries of an earlier boot are removed without asking the
	// kernel.
	Dir string
	// Self is the process that answers for what is loaded.
	Self sys.Process
	// Alive tells whether an owner still runs.
	Alive func(sys.Process) (bool, error)
	// Host loads and removes profiles.
	Host Host
}

// Journal loads profiles and remembers which sandbox each is for: one file for each profile,
// written before the profile is loaded and removed after it is. So a profile of ours that no entry
// names does not exist. It may be used by any number of processes at once.
type Journal struct{ options Options }

// entry is a file of the journal. Its name is the profile's.
type entry struct {
	Sandbox string      `json:"sandbox"`
	Owner   sys.Process `json:"owner"`
}

// Open prepares the folder.
func Open(o Options) (*Journal, error) {
	if o.Alive == nil || o.Self.Boot == "" {
		return nil, errors.New("open the journal of profiles: want Options.Self and Options.Alive")
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open the journal of profiles: %w", err)
	}
	return &Journal{options: o}, nil
}

// Load notes the sandbox's profile and gives it to the kernel. A profile of that name that the
// journal does not know is ErrExists, and is not touched: it may be an administrator's, or may
// confine a process that nobody remembers. After a crash in here the entry is there and the profile
// may be; Replay removes both.
func (j *Journal) Load(ctx context.Context, sandbox string, p Profile) error {
	lock, err := j.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close() // gives the lock back
	if loaded, err := j.options.Host.Loaded(p.Name); err != nil || loaded {
		return errors.Join(err, exists(loaded, p.Name)) // before it is noted as ours
	}
	if err := j.note(p.Name, entry{Sandbox: sandbox, Owner: j.options.Self}); err != nil {
		return fmt.Errorf("note profile %s: %w", p.Name, err)
	}
	if err := j.options.Host.Load(ctx, p); err != nil {
		return errors.Join(err, os.Remove(j.path(p.Name)))
	}
	return nil
}

// Restore removes the profiles of a sandbox, whose processes have ended: removing the profile of
// one that runs would set it free, and is ErrInUse. It may be repeated.
func (j *Journal) Restore(ctx context.Context, sandbox string) error {
	return j.remove(ctx, func(e entry) (bool, error) { return e.Sandbox == sandbox, nil }, nil)
}

// Replay removes the profiles whose owners are dead. One that still confines a process stays,
// and is no error: its sandbox's cleanup ends the process first.
func (j *Journal) Replay(ctx context.Context) error {
	return j.remove(ctx, func(e entry) (bool, error) {
		alive, err := j.options.Alive(e.Owner)
		return !alive, err
	}, ErrInUse)
}

// Pending tells whether a profile of the sandbox is still to be removed. Until then its pair is not
// given out: the next sandbox with it would find its profile's name taken. With an error it says
// true where the entry may be the sandbox's.
func (j *Journal) Pending(sandbox string) (bool, error) {
	names, err := j.names()
	for _, name := range names {
		e, err := j.read(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			return true, err
		case e.Sandbox == sandbox:
			return true, nil
		}
	}
	return false, err
}

// remove removes all profiles that are chosen, as far as it can; one whose removal gives the
// error except stays. Entries are read under the lock: one that was removed meanwhile may be
// another sandbox's now.
func (j *Journal) remove(ctx context.Context, chosen func(entry) (bool, error), except error) error {
	lock, err := j.lock(ctx)
	if err != nil {
		return err
	}
	defer lock.Close() // gives the lock back
	names, err := j.names()
	errs := []error{err}
	for _, name := range names {
		e, err := j.read(name)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		yes, err := chosen(e)
		if err == nil && yes {
			err = j.drop(name, e)
		}
		if except == nil || !errors.Is(err, except) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// drop removes one profile and then its entry. A crash in between leaves an entry without a
// profile, which the next removal does not mind.
func (j *Journal) drop(name string, e entry) error {
	if e.Owner.Boot == j.options.Self.Boot { // another boot's profiles are gone
		if err := j.options.Host.Remove(name); err != nil {
			return err
		}
	}
	return os.Remove(j.path(name))
}

func (j *Journal) path(name string) string { return filepath.Join(j.options.Dir, name) }

// lock keeps two processes from loading one name between the check and the note.
func (j *Journal) lock(ctx context.Context) (*os.File, error) {
	f, err := flock.Take(ctx, j.path(lockFile))
	if err != nil {
		return nil, fmt.Errorf("lock the journal of profiles: %w", err)
	}
	return f, nil
}

// names lists the entries. Lock and temporary file have names that no profile has.
func (j *Journal) names() ([]string, error) {
	found, err := os.ReadDir(j.options.Dir)
	var names []string
	for _, f := range found {
		if goodName.MatchString(f.Name()) {
			names = append(names, f.Name())
		}
	}
	return names, err
}

// read gives an entry, which must name a sandbox and an owner: without them nobody could remove it.
func (j *Journal) read(name string) (entry, error) {
	var e entry
	text, err := os.ReadFile(j.path(name))
	if err != nil {
		return e, err
	}
	if err := json.Unmarshal(text, &e); err != nil || e.Sandbox == "" || e.Owner == (sys.Process{}) {
		return e, fmt.Errorf("%w: %s: %q: remove the file once no process runs in that profile", ErrCorrupt, j.path(name), text)
	}
	return e, nil
}

// note writes an entry so that after a crash it is there whole or not at all.
func (j *Journal) note(name string, e entry) error {
	text, err := json.Marshal(e)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(j.path(tempFile), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), j.path(name))
}
