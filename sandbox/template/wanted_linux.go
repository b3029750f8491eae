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
	return full(list, time.Now())
}

// full is ErrFull where one more template would have GC remove one that was just used: sandboxes of
// many sizes would have templates built for ever. list begins with the one that was used last.
func full(list []Entry, now time.Time) error {
	if len(list) >= maxTemplates && now.Sub(list[maxTemplates-1].Used) < time.Hour {
		return fmt.Errorf("%d templates: %w", len(list), ErrFull)
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
