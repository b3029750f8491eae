// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"time"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

// validID is what both the shim and a folder take for a name. Dots alone, or a leading one, would
// name other folders.
var validID = regexp.MustCompile(`^[A-Za-z0-9]+(?:[-_.][A-Za-z0-9]+)*$`)

// maxID is the longest id that the shim takes. containerd's identifiers have this bound too.
const maxID = 76

// errNotExist is worded as engines look for it. Podman searches standard error for "does not
// exist".
var errNotExist = errors.New("container does not exist")

// dir is the folder of one container below the root. Its methods name the files in it. Below it
// everything is root's; the methods are the only place that knows the names.
type dir string

func (d dir) record() string { return filepath.Join(string(d), "state.json") }
func (d dir) rootfs() string { return filepath.Join(d.bundle(), "rootfs") }
func (d dir) bundle() string { return filepath.Join(string(d), "bundle") }
func (d dir) config() string { return filepath.Join(d.bundle(), "config.json") }

// log is the daemon's, for as long as the container is there that it was started for.
func (d dir) log() string { return filepath.Join(d.bundle(), "log") }

// address is the file in which the shim's start leaves the address of the daemon.
func (d dir) address() string { return filepath.Join(d.bundle(), "address") }
func (d dir) id() string      { return filepath.Base(string(d)) }

// record is what is kept of a container between two calls. It is written with the proxy still zero
// before the first effect, and again with the proxy's pid. What changes while the container runs is
// not in it: the daemon knows that.
type record struct {
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle"` // the engine's
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Terminal    bool              `json:"terminal,omitempty"`
	Daemon      string            `json:"daemon"` // the program that the caller's name asks for
	Proxy       process           `json:"proxy"`  // zero until the container is created
	Machine     int               `json:"machine,omitempty"`
}

// process is a process of this host, told from a later one with its pid by its start. Start ticks
// count from boot; the default root is on a tmpfs, so no record outlives one.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks after boot
}

// alive reports whether the process has not ended; a zombie has. A zombie proxy waits for its
// engine to collect the status; for this program it has ended.
func (p process) alive() bool {
	if p.PID == 0 {
		return false
	}
	s, err := sys.StatOf(p.PID)
	return err == nil && s.Start == p.Start && !s.Ended()
}

// container names the folder of an id. The id becomes a folder's name, so nothing that leaves the
// root may pass.
func (o *options) container(id string) (dir, error) {
	if len(id) > maxID || !validID.MatchString(id) {
		return "", fmt.Errorf("container id %q: want at most %d letters and digits, with a dot, dash or underscore between them", id, maxID)
	}
	root, err := filepath.Abs(o.root)
	return dir(filepath.Join(root, id)), err
}

// open takes the lock of a container that exists. The caller unlocks. An id without a folder is
// errNotExist.
func (o *options) open(id string) (d dir, unlock func(), err error) {
	d, err = o.container(id)
	if err != nil {
		return "", nil, err
	}
	unlock, err = lock(string(d))
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("%w: %q", errNotExist, id)
	}
	return d, unlock, err
}

// lock waits until no other call makes or deletes the container of the folder. The lock ends with
// the process. It is on the folder itself: there is no lock file that could stay behind or be
// removed under a waiter.
func lock(path string) (unlock func(), err error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	for {
		if err = unix.Flock(int(f.Fd()), unix.LOCK_EX); !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("lock %q: %w", path, err), f.Close())
	}
	// The folder that was locked has no name any more; a new one of that name has a lock of its
	// own.
	if _, err := os.Lstat(path); err != nil { // deleted while this call waited
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// load reads a container's record. It takes no lock: a record is replaced as a whole, so a reader
// sees the old or the new one.
func (o *options) load(id string) (dir, *record, error) {
	d, err := o.container(id)
	if err != nil {
		return "", nil, err
	}
	r, err := d.load()
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil, fmt.Errorf("%w: %q", errNotExist, id)
	}
	return d, r, err
}

// load reads the record of a folder.
func (d dir) load() (*record, error) {
	data, err := os.ReadFile(d.record())
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("%q: %w", d.record(), err)
	}
	return r, nil
}

// save replaces the record.
func (d dir) save(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return replaceFile(d.record(), data, 0o600)
}

// replaceFile writes a file that is never seen half written. An engine's pid file may be in a
// folder that others write to, such as /tmp: they must not know the name that is written first.
// CreateTemp opens with O_EXCL and a random name, so no link that is there is followed. The file is
// in place under its name once this returns. It is not synced: after a crash of the host there are
// no containers.
func replaceFile(path string, data []byte, mode os.FileMode) error {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(mode), f.Close()); err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return nil
}

// all lists the containers of the root. A folder without a record is being made or deleted, and is
// left out.
func (o *options) all() ([]*record, error) {
	entries, err := os.ReadDir(o.root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []*record
	for _, e := range entries {
		d, err := o.container(e.Name())
		if err != nil {
			continue // no container's
		}
		r, err := d.load()
		if errors.Is(err, fs.ErrNotExist) {
			continue // it is being made or deleted
		}
		if err != nil {
			return nil, err
		}
		out = append(out, r)
	}
	return out, nil
}
