// SPDX-License-Identifier: Apache-2.0

package tally

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Names in the state folder. No namespace begins with a dot.
const (
	fileName = ".tally.json"
	newName  = ".tally.json.new"
	lockName = ".tally.lock"
)

// maxFile is far above what maxNames allows.
const maxFile = 256 << 10

// A lock is held for less than a millisecond. Its holder may be stopped or have lost its CPU.
const (
	lockTries = 100
	lockPause = 5 * time.Millisecond
)

// Load reads the counts below a state folder; they are zero if there is no file. A damaged file is
// an error. It takes no lock: the file is replaced as a whole.
func Load(state string) (Counts, error) {
	f, err := os.OpenFile(filepath.Join(state, fileName), os.O_RDONLY|unix.O_NOFOLLOW, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return Counts{Version: version}, nil
	}
	if err != nil {
		return Counts{}, err
	}
	defer func() { _ = f.Close() }()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return Counts{}, err
	}
	var c Counts
	switch err := json.Unmarshal(data, &c); {
	case len(data) > maxFile:
		return Counts{}, fmt.Errorf("%w: %q has more than %d bytes", errDamaged, f.Name(), maxFile)
	case err != nil:
		return Counts{}, fmt.Errorf("%w: %q: %w", errDamaged, f.Name(), err)
	case c.Version != version:
		return Counts{}, fmt.Errorf("%w: %q has version %d, this cloister knows %d", errDamaged, f.Name(), c.Version, version)
	}
	// "null" in the file would be a nil histogram, on which Took fails.
	for phase, h := range c.Phases {
		if h == nil {
			delete(c.Phases, phase)
		}
	}
	return c, nil
}

// errDamaged is of a file that says nothing; the next count replaces it.
var errDamaged = errors.New("unreadable counts")

// Add changes the counts below a state folder, which it makes if need be. It waits for other shims,
// half a second at most. change is called once at most and should only count. An error means that
// nothing was counted.
func Add(state string, change func(*Counts)) (err error) {
	if err := os.MkdirAll(state, 0o711); err != nil {
		return err
	}
	// The lock is on a file beside the counts: they are replaced by a rename, and a lock on them
	// would be on the old file.
	lock, err := os.OpenFile(filepath.Join(state, lockName), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := take(lock); err != nil {
		return err
	}
	c, err := Load(state)
	if errors.Is(err, errDamaged) {
		c, err = Counts{Version: version}, nil
	}
	if err != nil {
		return err
	}
	change(&c)
	data, err := json.Marshal(c)
	if err != nil {
		return err
	}
	// Not synced: after a crash of the host there is nothing to count.
	if err := write(filepath.Join(state, newName), append(data, '\n')); err != nil {
		return err
	}
	return os.Rename(filepath.Join(state, newName), filepath.Join(state, fileName))
}

// write makes the new file; a half one that a crash left is overwritten.
func write(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_TRUNC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Close())
}

// take tries to lock a bounded number of times, and does not wait in the kernel. A shim that was
// stopped with the lock must not stop the starts of a whole host.
func take(lock *os.File) error {
	for range lockTries {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return err
		}
		<-time.After(lockPause) // the kernel tells nobody that a lock is free
	}
	return fmt.Errorf("lock %q: another process has held it for %v", lock.Name(), lockTries*lockPause)
}
