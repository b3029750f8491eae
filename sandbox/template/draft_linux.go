// SPDX-License-Identifier: Apache-2.0

package template

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// readOnly is the mode of a template's files. Nobody writes to them again; a new guest is a new
// file.
const readOnly = 0o400

// Draft is a template that is being made. Close it; what was not committed goes away then, and by
// GC when its maker dies. The lock is on the folder's inode and goes with the process, so that
// Sweep can tell a builder that lives from one that was killed.
type Draft struct {
	store Store
	lock  *os.File // its folder
	path  string   // its folder's; empty once committed
	State *os.File // for the state of the devices
}

// Begin makes a draft. The caller has QEMU write State, and then calls Commit once QEMU has ended.
func (s Store) Begin() (_ *Draft, err error) {
	if err := s.make(); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(s.dir, draftPrefix)
	if err != nil {
		return nil, err
	}
	d := &Draft{store: s, path: dir}
	defer func() {
		if err != nil {
			err = errors.Join(err, d.Close())
		}
	}()
	if d.lock, err = os.Open(dir); err != nil {
		return nil, err
	}
	// Sweep of another process may take the folder away between its making and this lock; then the
	// build fails.
	if err := unix.Flock(int(d.lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return nil, fmt.Errorf("draft %s: %w", dir, err)
	}
	d.State, err = os.OpenFile(filepath.Join(dir, StateName), os.O_RDWR|os.O_CREATE|os.O_EXCL, readOnly)
	return d, err
}

// Commit keeps the guest under its key: State is written, and memory is the guest's whole memory. A
// template with that key, and what is known of its failures, is replaced. It fills in Format, ID,
// Created, State, Memory and Extents of m. On an error there is no template, and Close removes what
// there is. memory must not be written to meanwhile.
func (d *Draft) Commit(m Manifest, memory *os.File) (Manifest, error) {
	m.Format, m.ID, m.Created = format, m.Key.ID(), time.Now().UTC()
	var err error
	if m.State, err = d.blob(d.State); err != nil {
		return m, err
	}
	file, err := os.OpenFile(filepath.Join(d.path, MemoryName), os.O_RDWR|os.O_CREATE|os.O_EXCL, readOnly)
	if err != nil {
		return m, err
	}
	defer file.Close() // synced by blob
	if m.Extents, err = gather(memory, file); err != nil {
		return m, err
	}
	if m.Memory, err = d.blob(file); err != nil {
		return m, err
	}
	data, err := json.Marshal(m)
	if err != nil {
		return m, err
	}
	if _, err := ParseManifest(data); err != nil { // rather now than at the first start from it
		return m, err
	}
	if err := writeSynced(filepath.Join(d.path, ManifestName), data); err != nil {
		return m, err
	}
	return m, d.keep(m.ID)
}

// keep gives the folder its name. A rename of folders does not replace one with files in it. The
// files are synced before, then the folder, then the name: after a loss of power a name never
// stands for half a template.
func (d *Draft) keep(id string) error {
	if err := d.lock.Sync(); err != nil {
		return err
	}
	// A start between the two calls finds none and is cold.
	if err := d.store.Remove(id); err != nil {
		return err
	}
	if err := os.Rename(d.path, d.store.path(id)); err != nil {
		return err
	}
	d.path = ""
	// The new one is the one used last, so the bounds take others.
	return d.store.tidy()
}

// Close removes what was not committed. It may follow Commit, whose template it does not touch.
func (d *Draft) Close() error {
	var errs []error
	if d.State != nil {
		errs = append(errs, d.State.Close())
	}
	if d.path != "" {
		errs = append(errs, os.RemoveAll(d.path))
	}
	if d.lock != nil {
		errs = append(errs, d.lock.Close())
	}
	return errors.Join(errs...)
}

// blob brings a file to disk and describes it. The digest is of what was written, read back through
// the page cache.
func (d *Draft) blob(f *os.File) (Blob, error) {
	if err := f.Sync(); err != nil {
		return Blob{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return Blob{}, err
	}
	sum, err := digest(f)
	return Blob{Bytes: info.Size(), SHA256: sum}, err
}

// writeSynced makes a new file, and has it on disk when it returns.
func writeSynced(path string, data []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, readOnly)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	return errors.Join(err, f.Sync(), f.Close())
}

// digest is the SHA-256 of a whole file, wherever its offset is. io.NewSectionReader reads by
// pread: State's offset is where its writer left it.
func digest(f *os.File) (string, error) {
	h := sha256.New()
	if _, err := io.Copy(h, io.NewSectionReader(f, 0, 1<<62)); err != nil {
		return "", fmt.Errorf("digest of %s: %w", f.Name(), err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
