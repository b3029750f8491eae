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
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"cloister/sys"
)

// maxRecord bounds a record that is read. What is written stays far below it.
const (
	maxRecord  = 4 << 20
	maxWritten = maxRecord / 4
)

// Journal is a sandbox's record, held for writing. Each change is on disk when the call returns. It
// holds a lock on a file of the folder, which the kernel releases when the process ends: that tells
// a living shim from a dead one.
type Journal struct {
	dir  Dir
	lock *os.File

	mu     sync.Mutex
	record Record
	closed bool // the folder is somebody else's
}

// Create makes the sandbox's folder with an empty record that is owned by the calling process. A
// folder that exists is errdefs.ErrAlreadyExists. The caller owns the sandbox from then on, and
// closes the Journal. After an error, as on a full disk, the folder is gone again.
func Create(dir Dir, bundle string) (*Journal, error) {
	boot, err := sys.BootID()
	if err != nil {
		return nil, err
	}
	owner, err := sys.Self()
	if err != nil {
		return nil, err
	}
	if err := dir.Make(); err != nil {
		return nil, err
	}
	// A crash before the record is written leaves a folder without one, which Open takes for an
	// empty record.
	lock, err := lockFile(dir.lock())
	if err != nil {
		_ = os.Remove(string(dir)) // unless a cleanup has the lock: it removes the folder itself
		return nil, err
	}
	j := &Journal{dir: dir, lock: lock, record: Record{
		Version: version, Namespace: dir.Namespace(), ID: dir.ID(), Bundle: bundle,
		BootID: boot, Owner: owner, Created: time.Now().UTC(), Next: 1,
	}}
	if err := j.write(j.record); err != nil {
		// Under the lock, so that nobody has taken the folder over.
		return nil, errors.Join(err, os.RemoveAll(string(dir)), lock.Close())
	}
	return j, nil
}

// Open takes over the record of a sandbox whose owner is gone. A missing folder is
// errdefs.ErrNotFound; an owner that lives is errdefs.ErrUnavailable. A folder whose owner died
// before its first record gives an empty one. It may be called by several at once; one gets the
// lock, the others ErrUnavailable.
func Open(dir Dir) (*Journal, error) {
	if _, err := os.Stat(string(dir)); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %w", errdefs.ErrNotFound, err)
	}
	lock, err := lockFile(dir.lock())
	if err != nil {
		return nil, err
	}
	// Under the lock, so that nobody changes the record after it was read.
	r, err := Load(dir)
	if errors.Is(err, errdefs.ErrNotFound) {
		r, err = blank(dir), nil
	}
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return &Journal{dir: dir, lock: lock, record: r}, nil
}

// Rebuild takes over a sandbox whose owner is gone and whose record cannot be read (IsUnreadable).
// Its effects are those that find reports, oldest first. The damaged record stays beside the new
// one for as long as the folder does. find is called under the lock.
func Rebuild(dir Dir, find func() ([]Effect, error)) (*Journal, error) {
	lock, err := lockFile(dir.lock())
	if err != nil {
		return nil, err
	}
	j := &Journal{dir: dir, lock: lock, record: blank(dir)}
	err = func() error {
		if j.record.BootID, err = sys.BootID(); err != nil {
			return err
		}
		found, err := find()
		if err != nil {
			return err
		}
		// Kept for people: it may say what damaged it.
		if err := os.Rename(dir.Record(), dir.damaged()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return j.change(func(r *Record) error {
			for _, e := range found {
				e.Seq, e.Done = r.Next, true
				r.Next++
				r.Effects = append(r.Effects, e)
			}
			return nil
		})
	}()
	if err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return j, nil
}

// blank is a record of which nothing is known but the name. Its boot is unknown, so no effect
// counts as taken back by a reboot.
func blank(dir Dir) Record {
	return Record{Version: version, Namespace: dir.Namespace(), ID: dir.ID(), Next: 1}
}

// IsUnreadable reports whether an error of Open or Load means that the record is there
// and says nothing: too large, cut short, garbage, or of an unknown version.
func IsUnreadable(err error) bool { return errors.Is(err, errUnreadable) }

var errUnreadable = errors.New("record cannot be read")

// Held reports whether a process has the sandbox open for writing, as its shim does. It takes no
// lock: a start that wants it at this moment is not disturbed.
func Held(dir Dir) (bool, error) {
	var st unix.Stat_t
	if err := unix.Stat(dir.lock(), &st); errors.Is(err, unix.ENOENT) {
		return false, nil
	} else if err != nil {
		return false, fmt.Errorf("lock %q: %w", dir.lock(), err)
	}
	// The file has locks of all processes of this pid namespace and of those below it.
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return false, err
	}
	// proc_locks(5): "1: FLOCK ADVISORY WRITE 708 00:13:16955 0 EOF", the device in hexadecimal.
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(locks)) {
		if f := strings.Fields(line); len(f) > 5 && f[1] == "FLOCK" && f[5] == file {
			return true, nil
		}
	}
	return false, nil
}

// Load reads a record without taking it over: what it says may be old by the time it is used. A
// missing one is errdefs.ErrNotFound, a damaged one IsUnreadable.
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

// parseRecord passes over unknown fields: a later version of cloister may have added some.
func parseRecord(data []byte) (Record, error) {
	if len(data) > maxRecord {
		return Record{}, fmt.Errorf("%w: more than %d bytes: %w", errUnreadable, maxRecord, errdefs.ErrDataLoss)
	}
	var r Record
	if err := json.Unmarshal(data, &r); err != nil {
		return Record{}, fmt.Errorf("%w: %w: %w", errUnreadable, errdefs.ErrDataLoss, err)
	}
	// A version that is not known may mean another thing by the same field; undoing by it could
	// take away somebody else's.
	if r.Version != version {
		return Record{}, fmt.Errorf("%w: its version is %d, this cloister knows %d: use the cloister that made it: %w",
			errUnreadable, r.Version, version, errdefs.ErrFailedPrecondition)
	}
	r.trim()
	return r, nil
}

// lockFile holds the sandbox for the process: the kernel lets go when it ends. Nobody waits for it:
// a lock that is held is a sandbox in use.
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

// Promise writes down an effect before it happens and gives its number. An error means that nothing
// is written, and the effect must not happen.
func (j *Journal) Promise(e Effect) (seq int, err error) {
	err = j.change(func(r *Record) error {
		e.Seq, seq = r.Next, r.Next
		r.Next++
		r.Effects = append(r.Effects, e)
		return nil
	})
	return seq, err
}

// Done says that a promised effect has happened; set, which may be nil, fills in what is only known
// now. An error after the effect has happened is no harm: a promise is undone as well.
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

// Forget strikes out an effect that has been taken back. One that is not there is no error. It is
// called after the undo has succeeded. A crash between the two has the undo run again.
func (j *Journal) Forget(seq int) error {
	return j.change(func(r *Record) error {
		r.Effects = slices.DeleteFunc(r.Effects, func(e Effect) bool { return e.Seq == seq })
		return nil
	})
}

// Note writes down facts and phases; either may be nil. What the record has already, and what is
// beyond its bounds, is not written again. Both are for people and tools, such as ps and inspect.
func (j *Journal) Note(facts map[string]string, phases []Phase) error {
	return j.change(func(r *Record) error {
		if !r.note(facts, phases) {
			return errUnchanged
		}
		return nil
	})
}

// End writes down that the machine has ended, and why. The first call counts. It may come at
// any time: after Close it does nothing, since the folder may be gone.
func (j *Journal) End(reason string) error {
	return j.change(func(r *Record) error {
		if j.closed || r.Ended != nil {
			return errUnchanged
		}
		r.Ended = &Ended{At: time.Now().UTC(), Reason: clip(reason, maxFact)}
		return nil
	})
}

// Close lets go of the record, which stays. It may be taken over from then on.
func (j *Journal) Close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	return j.lock.Close()
}

// errUnchanged tells change that there is nothing to write.
var errUnchanged = errors.New("unchanged")

// change applies f to a copy, writes it and only then keeps it. So what the Journal holds in memory
// is never ahead of the disk.
func (j *Journal) change(f func(*Record) error) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	r := j.record.clone()
	if err := f(&r); errors.Is(err, errUnchanged) {
		return nil
	} else if err != nil {
		return err
	}
	if err := j.write(r); err != nil {
		return fmt.Errorf("record %q: %w", j.dir.Record(), err)
	}
	j.record = r
	return nil
}

// write replaces the file as a whole: a reader or a crash sees the old one or the new one. The file
// is synced before the rename and the folder after it: after a loss of power the record names at
// least every effect that has begun.
func (j *Journal) write(r Record) error {
	data, err := json.MarshalIndent(r, "", " ")
	if err != nil {
		return err
	}
	// Refused while it still can be read: a record that grows past what is read would hide the
	// whole sandbox from gc.
	if len(data) > maxWritten {
		return fmt.Errorf("%d bytes, at most %d are written: a sandbox has too many effects: %w", len(data),
			maxWritten, errdefs.ErrResourceExhausted)
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

// writeSync writes a file and has it on disk when it returns. O_NOFOLLOW: the folder is root's, and
// a link in it would be a mistake.
func writeSync(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}
