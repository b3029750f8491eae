// SPDX-License-Identifier: Apache-2.0

package cache

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Make calls build if there is no entry at path, while it holds the entry's lock. It waits for
// another process that makes the same. build has to rename its result to path.
func Make(path string, build func() error) error {
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	unlock, err := lock(path, 0)
	if err != nil {
		return err
	}
	defer unlock()
	if _, err := os.Stat(path); err == nil {
		return nil // the other process made it
	}
	return build()
}

var errBusy = errors.New("another process builds it")

// lock takes the lock of an entry: a file beside it, since builds swap the entry itself. With
// unix.LOCK_NB it fails with errBusy instead of waiting. The lock ends with its process.
func lock(path string, flags int) (unlock func(), err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(f.Fd()), unix.LOCK_EX|flags)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = errBusy
		}
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	return func() { _ = f.Close() }, nil
}
