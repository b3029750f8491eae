// SPDX-License-Identifier: Apache-2.0

package template

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Why a template is not built, beside ErrDisabled and ErrSetAside.
var (
	ErrThere = fmt.Errorf("there is a template for this machine: %w", errdefs.ErrAlreadyExists)
	ErrBusy  = fmt.Errorf("another template is being built: %w", errdefs.ErrUnavailable)
	ErrFull  = fmt.Errorf("the store is full of templates that are in use: run: cloister template gc --all: %w",
		errdefs.ErrResourceExhausted)
)

// Lacks is nil where a template of that key is wanted: there is none yet, none has failed twice,
// and there is room for one. Else it says why none is wanted. It reads no memory: a template that
// is damaged is there, until GC removes it.
func (s Store) Lacks(key Key) error {
	id := key.ID()
	if s.Disabled() {
		return ErrDisabled
	}
	if s.Failures(id) >= maxFailures {
		return fmt.Errorf("%s: %w", id, ErrSetAside)
	}
	if _, err := os.Lstat(s.path(id)); !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", id, ErrThere)
	}
	list, err := s.List()
	if err != nil {
		return err
	}
	return full(list, about(key.MemoryMiB), time.Now())
}

// about is what a template of a guest takes, in bytes: the guest's kernel and agent, and 64 bytes
// for each page of 4 KiB, which the kernel writes whatever the memory is used for.
func about(memoryMiB int) int64 { return 40<<20 + int64(memoryMiB)<<20/64 }

// full is ErrFull where a template of so many bytes would have GC remove one that was just used, or
// the new one itself: sandboxes of many or large sizes would have templates built for ever. list
// begins with the one that was used last.
func full(list []Entry, bytes int64, now time.Time) error {
	if bytes > maxBytes {
		return fmt.Errorf("a template of %d MiB, want %d for all of a host: such sandboxes start cold: %w", bytes>>20, maxBytes>>20,
			errdefs.ErrResourceExhausted)
	}
	for i, e := range list {
		bytes += e.Bytes
		if (i+1 >= maxTemplates || bytes > maxBytes) && now.Sub(e.Used) < time.Hour {
			return fmt.Errorf("%d templates: %w", len(list), ErrFull)
		}
	}
	return nil
}

// Builder takes the store for a build in the background: one at a time on the host, whatever the
// key. Close the file; the lock goes with the process. Another builder is ErrBusy.
func (s Store) Builder() (*os.File, error) {
	if err := s.make(); err != nil {
		return nil, err
	}
	dir, err := os.Open(s.dir)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = ErrBusy
	}
	if err != nil {
		return nil, errors.Join(err, dir.Close())
	}
	return dir, nil
}
