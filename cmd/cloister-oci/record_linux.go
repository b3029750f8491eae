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
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// validID is what both the shim and a folder take for a name.
var validID = regexp.MustCompile(`^[A-Za-z0-9]+(?:[-_.][A-Za-z0-9]+)*$`)

// maxID is the longest id that the shim takes.
const maxID = 76

// errNotExist is worded as engines look for it.
var errNotExist = errors.New("container does not exist")

// dir is the folder of one container below the root. Its methods name the files in it.
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

// record is what is kept of a container between two calls.
type record struct {
	ID          string            `json:"id"`
	Bundle      string            `json:"bundle"` // the engine's
	Rootfs      string            `json:"rootfs"`
	Created     time.Time         `json:"created"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Terminal    bool              `json:"terminal,omitempty"`
	Proxy       process           `json:"proxy"` // zero until the container is created
	Machine     int               `json:"machine,omitempty"`
}

// process is a process of this host, told from a later one with its pid by its start.
type process struct {
	PID   int    `json:"pid"`
	Start uint64 `json:"start"` // in clock ticks after boot
}

// alive reports whether the process has not ended; a zombie has.
func (p process) alive() bool {
	if p.PID == 0 {
		return false
	}
	state, start, err := stat(p.PID)
	return err == nil && start == p.Start && state != "Z" && state != "X"
}

// stat reads the state and the start of a process (proc_pid_stat(5), fields 3 and 22).
func stat(pid int) (state string, start uint64, err error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return "", 0, err
	}
	fields := strings.Fields(string(data[strings.LastIndexByte(string(data), ')')+1:]))
	if len(fields) < 20 {
		return "", 0, fmt.Errorf("/proc/%d/stat: %d fields, want more", pid, len(fields))
	}
	start, err = strconv.ParseUint(fields[19], 10, 64)
	return fields[0], start, err
}

// container names the folder of an id.
func (o *options) container(id string) (dir, error) {
	if len(id) > maxID || !validID.MatchString(id) {
		return "", fmt.Errorf("container id %q: want at most %d letters and digits, with a dot, dash or underscore between them", id, maxID)
	}
	root, err := filepath.Abs(o.root)
	return dir(filepath.Join(root, id)), err
}

// open takes the lock of a container that exists.
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
// the process.
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
	if _, err := os.Lstat(path); err != nil { // deleted while this call waited
		return nil, errors.Join(err, f.Close())
	}
	return func() { _ = f.Close() }, nil
}

// load reads a container's record.
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

func (d dir) save(r *record) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return replaceFile(d.record(), data, 0o600)
}

// replaceFile writes a file that is never seen half written. An engine's pid file may be in a
// folder that others write to, such as /tmp: they must not know the name that is written first.
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

// all lists the containers of the root.
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
