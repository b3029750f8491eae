// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"syscall"

	"github.com/containerd/errdefs"

	"cloister/sys"
)

// DebugSocket is the name of Debug in its folder.
const DebugSocket = "debug"

// maxID is containerd's own bound for namespaces and ids.
const maxID = 76

// ID is a container's, sandbox's or namespace's name, fit to be a file name. Every path below the
// state folder is made of IDs, so none of them leads out of it.
type ID string

// ParseID checks a name by containerd's rules: at most 76 letters and digits, with single dots,
// dashes or underscores between them. Errors are errdefs.ErrInvalidArgument.
func ParseID(s string) (ID, error) {
	if s == "" || len(s) > maxID {
		return "", fmt.Errorf("id %.80q has %d characters, 1 to %d are allowed: %w", s, len(s), maxID, errdefs.ErrInvalidArgument)
	}
	// joint: the last character was a separator, or there is none yet. So no id begins with a dot,
	// and ".." is none.
	joint := true
	for _, r := range []byte(s) {
		switch {
		case r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9':
			joint = false
		case (r == '.' || r == '-' || r == '_') && !joint:
			joint = true
		default:
			return "", fmt.Errorf("id %q: letters and digits, with single dots, dashes or underscores between them: %w",
				s, errdefs.ErrInvalidArgument)
		}
	}
	if joint {
		return "", fmt.Errorf("id %q ends in a separator: %w", s, errdefs.ErrInvalidArgument)
	}
	return ID(s), nil
}

// Dir is the run folder of one sandbox. Every file name in it is a method. It is made by New or
// List, which have checked its parts.
type Dir string

// New names the folder of sandbox id of a containerd namespace under state.
// Nothing is made on disk.
func New(state, namespace, id string) (Dir, error) {
	if !filepath.IsAbs(state) {
		return "", fmt.Errorf("state folder %q is not absolute: %w", state, errdefs.ErrInvalidArgument)
	}
	ns, err := ParseID(namespace)
	if err != nil {
		return "", fmt.Errorf("namespace: %w", err)
	}
	name, err := ParseID(id)
	if err != nil {
		return "", err
	}
	return Dir(filepath.Join(state, string(ns), string(name))), nil
}

// List gives the folders of all sandboxes under state, whatever is in them. A folder whose names
// are no ids is nobody's sandbox. One that has no record is listed: its owner may have died before
// the first.
func List(state string) ([]Dir, error) {
	var out []Dir
	namespaces, err := os.ReadDir(state)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, ns := range namespaces {
		sandboxes, err := os.ReadDir(filepath.Join(state, ns.Name()))
		if errors.Is(err, syscall.ENOTDIR) || errors.Is(err, fs.ErrNotExist) {
			continue // a file, or gone meanwhile
		}
		if err != nil {
			return nil, err
		}
		for _, s := range sandboxes {
			if d, err := New(state, ns.Name(), s.Name()); err == nil && s.IsDir() {
				out = append(out, d)
			}
		}
	}
	return out, nil
}

// String is the folder's path.
func (d Dir) String() string { return string(d) }

// ID is the sandbox's.
func (d Dir) ID() ID { return ID(filepath.Base(string(d))) }

// Namespace is containerd's.
func (d Dir) Namespace() ID { return ID(filepath.Base(filepath.Dir(string(d)))) }

// Record is the journal's file.
func (d Dir) Record() string { return d.file("record.json") }

// Names of the logs in Own.
const (
	Console      = "console.log"   // what the guest writes to its console
	QEMULog      = "qemu.log"      // what QEMU writes to its standard error
	VirtiofsdLog = "virtiofsd.log" // what virtiofsd writes to its standard error
)

// Own is where the sandbox's own file system is mounted, in the mount namespace of the shim alone.
// It holds the logs and what virtiofsd serves, so nothing that a guest writes lies beside other
// services' files.
func (d Dir) Own() string { return d.file("own") }

// Log is the path of one of the logs of a sandbox that owner runs: it leads through the owner's
// mount namespace. After the owner's end the logs are gone with its mount namespace.
func (d Dir) Log(owner sys.Process, name string) string {
	return filepath.Join("/proc", strconv.Itoa(owner.PID), "root", d.Own(), name)
}

// Debug is the socket that `cloister debug` connects to.
func (d Dir) Debug() string { return d.file(DebugSocket) }

// Share is where virtiofsd's view of the tree that it serves is mounted, in the mount namespace of
// the shim alone.
func (d Dir) Share() string { return d.file("share") }

// RuntimeRoot is below which the OCI runtime keeps its state, in class process; the next level is
// the namespace's.
func (d Dir) RuntimeRoot() string { return d.file("runtime") }

// Marker is a NAME=value for the environment of every process of the sandbox, by which Marked finds
// one whose pid was not written down. It is inherited by what the process starts. A process can
// change what its environment shows, so a mark helps to find processes and is no proof against a
// captured one.
func (d Dir) Marker() string { return markerName + string(d) }

const markerName = "CLOISTER_SANDBOX="

func (d Dir) lock() string    { return d.file("lock") }
func (d Dir) newFile() string { return d.file("record.json.new") }
func (d Dir) damaged() string { return d.file("record.json.damaged") }

func (d Dir) file(name string) string { return filepath.Join(string(d), name) }

// Make makes the folder for root alone, and those above it. One that exists is
// errdefs.ErrAlreadyExists.
func (d Dir) Make() error {
	err := d.mkdir()
	for range 9 {
		if !errors.Is(err, fs.ErrNotExist) {
			break
		}
		err = d.mkdir() // the namespace's last sandbox took its folder away between the two steps
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", errdefs.ErrAlreadyExists, err)
	}
	return err
}

func (d Dir) mkdir() error {
	if err := os.MkdirAll(filepath.Dir(string(d)), 0o711); err != nil {
		return err
	}
	return os.Mkdir(string(d), 0o700)
}
