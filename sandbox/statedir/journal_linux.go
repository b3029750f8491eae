// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// maxRecord bounds a record that is read.
const maxRecord = 4 << 20

// Journal is a sandbox's record, held for writing. Each change is on disk when
// the call returns.
type Journal struct {
	dir  Dir
	lock *os.File

	mu     sync.Mutex
	record Record
}

// Create makes the sandbox's folder with an empty record that is owned by the
// calling process. A folder that exists is errdefs.ErrAlreadyExists.
func Create(dir Dir, bundle string) (*Journal, error) {
	boot, err := bootID()
	if err != nil {
		return nil, err
	}
	owner, err := ProcessOf(os.Getpid())
	if err != nil {
		return nil, err
	}
	if err := dir.Make(); err != nil {
		return nil, err
	}
	lock, err := lockFile(dir.lock())
	if err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, lock: lock, record: Record{
		Version: version, Namespace: dir.Namespace(), ID: dir.ID(), Bundle: bundle,
		BootID: boot, Owner: owner, Created: time.Now().UTC(), Next: 1,
	}}
	if err := j.write(j.record); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return j, nil
}

// Open takes over the record of a sandbox whose owner is gone. A missing folder
// is errdefs.ErrNotFound; an owner that lives is errdefs.ErrUnavailable. A folder
// whose owner died before its first record gives an empty one.
func Open(dir Dir) (*Journal, error) {
	if _, err := os.Stat(string(dir)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	lock, err := lockFile(dir.lock())
	if err != nil {
		return nil, err
	}
	r, err := Load(dir)
	if errors.Is(err, errdefs.ErrNotFound) {
		r, err = Record{Version: version, Namespace: dir.Namespace(), ID: dir.ID(), Next: 1}, nil
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Journal{dir: dir, lock: lock, record: r}, nil
}

// Load reads a record without taking it over: what it says may be old by the
// time it is used.
func Load(dir Dir) (Record, error) {
	f, err := os.Open(dir.Record())
	if errors.Is(err, fs.ErrNotExist) {
		return Record{}, fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	if err != nil {
		return Record{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxRecord+1))
	if err != nil {
		return Record{}, err
	}
	r, err := parseRecord(data)
	if err != nil {
		return Record{}, fmt.Errorf("record %q: %w", dir.Record(), err)
	}
	return r, nil
}

func parseRecord(data []byte) (Record, error) {
	if len(data) > maxRecord {
		return Record{}, fmt.Errorf("more than %d bytes: %w", maxRecord, errdefs.ErrDataLoss)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w", errdefs.ErrDataLoss, err)
	}
	if r.Version != version {
		return Record{}, fmt.Errorf("form %d, this cloister knows %d: use the one that made it: %w", r.Version, version, errdefs.ErrFailedPrecondition)
	}
	return r, nil
}

// lockFile holds the sandbox for the process: the kernel lets go when it ends.
func lockFile(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = fmt.Errorf("sandbox is in use: %w", errdefs.ErrUnavailable)
		}
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// Dir is the sandbox's folder.
func (j *Journal) Dir() Dir { return j.dir }

// Record gives a copy of what is on disk.
func (j *Journal) Record() Record {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.record.clone()
}

// Promise writes down an effect before it happens and gives its number.
func (j *Journal) Promise(e Effect) (seq int, err error) {
	err = j.change(func(r *Record) error {
		e.Seq, seq = r.Next, r.Next
		r.Next++
		r.Effects = append(r.Effects, e)
		return nil
	})
	return seq, err
}

// Done says that a promised effect has happened; set, which may be nil, fills in
// what is only known now.
func (j *Journal) Done(seq int, set func(*Effect)) error {
	return j.change(func(r *Record) error {
		i := slices.IndexFunc(r.Effects, func(e Effect) bool { return e.Seq == seq })
		if i < 0 {
			return fmt.Errorf("effect %d was not promised: %w", seq, errdefs.ErrNotFound)
		}
		if set != nil {
			set(&r.Effects[i])
		}
		r.Effects[i].Seq, r.Effects[i].Done = seq, true
		return nil
	})
}

// Forget strikes out an effect that has been taken back. One that is not there
// is no error.
func (j *Journal) Forget(seq int) error {
	return j.change(func(r *Record) error {
		r.Effects = slices.DeleteFunc(r.Effects, func(e Effect) bool { return e.Seq == seq })
		return nil
	})
}

// Note writes down facts and phases; either may be nil.
func (j *Journal) Note(facts map[string]string, phases []Phase) error {
	return j.change(func(r *Record) error {
		for k, v := range facts {
			if r.Facts == nil {
				r.Facts = map[string]string{}
			}
			r.Facts[k] = v
		}
		r.Phases = append(r.Phases, phases...)
		return nil
	})
}

// Close lets go of the record, which stays.
func (j *Journal) Close() error { return j.lock.Close() }

// change applies f to a copy, writes it and only then keeps it.
func (j *Journal) change(f func(*Record) error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.record.clone()
	if err := f(&r); err != nil {
		return err
	}
	if err := j.write(r); err != nil {
		return fmt.Errorf("record %q: %w", j.dir.Record(), err)
	}
	j.record = r
	return nil
}

// write replaces the file as a whole: a reader or a crash sees the old one or
// the new one.
func (j *Journal) write(r Record) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	if err := writeSync(j.dir.newFile(), append(data, '\n')); err != nil {
		return err
	}
	if err := os.Rename(j.dir.newFile(), j.dir.Record()); err != nil {
		return err
	}
	folder, err := os.Open(string(j.dir))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

func writeSync(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
