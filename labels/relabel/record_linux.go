// SPDX-License-Identifier: Apache-2.0

package relabel

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"cloister/labels"
	"cloister/sys"
)

// ErrCorrupt is wrapped when a file of the journal cannot be what cloister wrote. Nothing is
// guessed: the file stays, the level stays held, and the error names what to do.
var ErrCorrupt = errors.New("corrupt relabel journal")

// head is what a sandbox's folder begins with. While it is there the sandbox is pending.
type head struct {
	Sandbox string       `json:"sandbox"`
	Owner   sys.Process  `json:"owner"`
	Level   labels.Level `json:"level"`
}

// record is one labelled file and who uses it. Labels are kept as written on the file, known to the
// policy or not.
type record struct {
	Path     string   `json:"path"`
	ID       identity `json:"id"`
	Mount    string   `json:"mount"` // the top of its file system, by which a file that is gone is told from one not mounted
	MountID  identity `json:"mount_id"`
	Volatile bool     `json:"volatile,omitempty"` // its file system does not survive a reboot
	Boot     string   `json:"boot"`
	Before   string   `json:"before"` // empty: it had none
	Label    string   `json:"label"`
	After    string   `json:"after,omitempty"`
	Tree     bool     `json:"tree"`
	Remember bool     `json:"remember"`
	Holders  []string `json:"holders"`
}

// goal is the label that the file gets when its last user is gone. After is for disks that cloister
// made: their old label is one that a guest may read.
func (r record) goal() string {
	if r.After != "" {
		return r.After
	}
	return r.Before
}

// without is the record after a sandbox has left it; the original is not changed.
func (r record) without(sandbox string) record {
	r.Holders = slices.DeleteFunc(slices.Clone(r.Holders), func(h string) bool { return h == sandbox })
	return r
}

// load reads a journal file; a missing one gives fs.ErrNotExist.
func load(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("%w: %s: %w: label its files by hand (cloister labels shows them), then remove it", ErrCorrupt, path, err)
	}
	return nil
}

// loadHead reads the head of a sandbox's folder. One that names no owner could never be replayed,
// so it is corrupt.
func (j *Journal) loadHead(folder string) (head, error) {
	var h head
	err := load(filepath.Join(folder, headFile), &h)
	if err == nil && (h.Sandbox == "" || h.Owner == (sys.Process{})) {
		err = fmt.Errorf("%w: %s names no sandbox or owner: remove it", ErrCorrupt, filepath.Join(folder, headFile))
	}
	return h, err
}

// loadRecord reads a record. One without a holder, a label or an absolute path was not written
// here.
func (j *Journal) loadRecord(name string) (record, error) {
	var r record
	path := j.recordPath(name)
	err := load(path, &r)
	if err == nil && (!filepath.IsAbs(r.Path) || len(r.Holders) == 0 || r.Label == "") {
		err = fmt.Errorf("%w: %s: path %q, label %q, %d holders: remove it", ErrCorrupt, path, r.Path, r.Label, len(r.Holders))
	}
	return r, err
}

// store writes a file so that after a crash it is there whole or not at all: the content is synced
// before the rename, and the folder after it. The temporary file has a random name, since several
// sandboxes may write records of one folder.
func store(path string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(path), ".tmp-*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(text, '\n'))
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder makes a rename or a new folder survive a power cut: a file's own sync does not write
// the folder's entry.
func syncFolder(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}
