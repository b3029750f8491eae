// SPDX-License-Identifier: Apache-2.0

package template

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/containerd/errdefs"

	"cloister/sys"
)

// Names of a template's files.
const (
	ManifestName = "manifest.json"
	StateName    = "state"
	MemoryName   = "memory"
)

// Bounds of a store. A template takes about 50 MiB.
const (
	maxTemplates = 16
	maxBytes     = 2 << 30
	// maxFailures is how often a start from a template may fail before it is set aside.
	maxFailures = 2
)

// Names in a store's folder. A template is a folder with its id for a name.
const (
	disabledName = "disabled"
	digestsName  = "digests.json"
	failedPrefix = "failed-"
	draftPrefix  = "draft-"
)

var idPattern = regexp.MustCompile(`\A[0-9a-f]{32}\z`)

// Why there is no template to start from. Each is errdefs.ErrNotFound or
// errdefs.ErrFailedPrecondition as well.
var (
	ErrNone     = fmt.Errorf("no template for this machine: run: cloister template build: %w", errdefs.ErrNotFound)
	ErrDisabled = fmt.Errorf("templates are disabled: run: cloister template enable: %w", errdefs.ErrFailedPrecondition)
	ErrSetAside = fmt.Errorf("the template has failed %d times: run: cloister template build: %w",
		maxFailures, errdefs.ErrFailedPrecondition)
)

// Store is a folder of templates, as /var/lib/cloister/templates. It is a name and holds no lock:
// every call looks at the folder anew. All errors of a Store end in a cold start.
type Store struct{ dir string }

// NewStore names the folder. It is made when there is something to keep.
func NewStore(dir string) Store { return Store{dir} }

func (s Store) path(name string) string { return filepath.Join(s.dir, name) }

// make makes the folder for root alone. A folder that others can change, or that a link of theirs
// leads to, is refused: whoever writes a template writes the memory of guests.
func (s Store) make() error {
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		return err
	}
	return sys.Trusted(s.dir)
}

// Empty reports whether there is no template at all. It saves a start on a host without templates
// the digest of QEMU.
func (s Store) Empty() bool {
	all, err := os.ReadDir(s.dir)
	return err != nil || !slices.ContainsFunc(all, func(e fs.DirEntry) bool { return idPattern.MatchString(e.Name()) })
}

// Template is one that fits and is undamaged. Close it. The descriptors stay good when the template
// is removed meanwhile.
type Template struct {
	Manifest Manifest
	State    *os.File // read-only, at its start
	memory   *os.File
}

// Memory is the file of the saved memory, read-only; see Fill.
func (t *Template) Memory() *os.File { return t.memory }

// Close lets go of the files.
func (t *Template) Close() error { return errors.Join(t.State.Close(), t.memory.Close()) }

// Open gives the template of a key, or says why there is none to start from. Nobody but root can
// have written it, and its digests are right. It may be called by many starts at once, beside a
// build and GC. Errors are ErrNone, ErrDisabled, ErrSetAside and ErrDamaged, or of the file system.
func (s Store) Open(key Key) (*Template, error) {
	if s.Disabled() {
		return nil, ErrDisabled
	}
	id := key.ID()
	// Before the files are read: a template that is set aside costs a start nothing.
	if s.Failures(id) >= maxFailures {
		return nil, fmt.Errorf("%s: %w", id, ErrSetAside)
	}
	t, err := s.open(id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%s: %w", id, ErrNone)
	}
	if err != nil {
		return nil, fmt.Errorf("template %s: %w", id, err)
	}
	if err := s.verify(t, true); err != nil {
		return nil, errors.Join(fmt.Errorf("template %s: %w", id, err), t.Close())
	}
	now := time.Now()
	_ = os.Chtimes(s.path(id), now, now) // says which one GC removes first
	return t, nil
}

// open opens the files without looking into memory and state. Each path is checked up to the root,
// since a folder above that others can write to could be exchanged.
func (s Store) open(id string) (_ *Template, err error) {
	dir := s.path(id)
	for _, name := range []string{ManifestName, StateName, MemoryName} {
		if err := sys.Trusted(filepath.Join(dir, name)); err != nil {
			return nil, err
		}
	}
	data, err := readBounded(filepath.Join(dir, ManifestName), maxManifest)
	if err != nil {
		return nil, err
	}
	t := &Template{}
	if t.Manifest, err = ParseManifest(data); err != nil {
		return nil, err
	}
	if t.Manifest.ID != id {
		return nil, fmt.Errorf("%w: it is %s", ErrDamaged, t.Manifest.ID)
	}
	if t.State, err = os.Open(filepath.Join(dir, StateName)); err != nil {
		return nil, err
	}
	if t.memory, err = os.Open(filepath.Join(dir, MemoryName)); err != nil {
		return nil, errors.Join(err, t.State.Close())
	}
	return t, nil
}

// verify compares both files with the manifest. A digest that was right once is taken for right,
// where trusting, as long as the file is the same and unchanged. The comparison is with open
// descriptors: what was verified is what will be read.
func (s Store) verify(t *Template, trusting bool) error {
	for _, f := range []struct {
		file *os.File
		want Blob
	}{{t.State, t.Manifest.State}, {t.memory, t.Manifest.Memory}} {
		info, err := f.file.Stat()
		if err != nil {
			return err
		}
		if !info.Mode().IsRegular() || info.Size() != f.want.Bytes {
			return fmt.Errorf("%w: %s has %d bytes, want %d", ErrDamaged, f.file.Name(), info.Size(), f.want.Bytes)
		}
		var sum string
		if trusting {
			sum, err = s.Digest(f.file)
		} else {
			sum, err = digest(f.file)
		}
		if err != nil {
			return err
		}
		if sum != f.want.SHA256 {
			return fmt.Errorf("%w: %s has digest %s, want %s", ErrDamaged, f.file.Name(), sum, f.want.SHA256)
		}
	}
	return nil
}

// Verify reads a template whole. It does not trust the digests that are kept; `cloister template
// verify` is for an administrator who doubts the disk.
func (s Store) Verify(id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("template %.40q: not a template id: %w", id, errdefs.ErrInvalidArgument)
	}
	t, err := s.open(id)
	if err != nil {
		return fmt.Errorf("template %s: %w", id, err)
	}
	err = s.verify(t, false)
	return errors.Join(err, t.Close())
}

// Entry is a template as List shows it.
type Entry struct {
	ID       string    `json:"id"`
	Bytes    int64     `json:"bytes"` // of its files
	Used     time.Time `json:"used"`  // last
	Failures int       `json:"failures"`
	SetAside bool      `json:"setAside"`
	Manifest *Manifest `json:"manifest,omitempty"`
	Problem  string    `json:"problem,omitempty"` // why there is no manifest
}

// List gives all templates, the one that was used last first. A damaged one is listed with its
// Problem, so that it can be seen and removed. Digests are not computed.
func (s Store) List() ([]Entry, error) {
	all, err := os.ReadDir(s.dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out []Entry
	for _, e := range all {
		if !e.IsDir() || !idPattern.MatchString(e.Name()) {
			continue
		}
		info, err := e.Info()
		if err != nil {
			continue // gone meanwhile
		}
		entry := Entry{ID: e.Name(), Used: info.ModTime(), Failures: s.Failures(e.Name())}
		entry.SetAside = entry.Failures >= maxFailures
		t, err := s.open(e.Name())
		if err != nil {
			entry.Problem = err.Error()
		} else {
			entry.Manifest, entry.Bytes = &t.Manifest, t.Manifest.Memory.Bytes+t.Manifest.State.Bytes
			_ = t.Close() // read only
		}
		out = append(out, entry)
	}
	slices.SortFunc(out, func(a, b Entry) int {
		return cmp.Or(b.Used.Compare(a.Used), cmp.Compare(a.ID, b.ID))
	})
	return out, nil
}

// Remove takes a template away, with what is known of its failures. Sandboxes that started from it
// do not need it. The pattern keeps an id of a command line from leading out of the store.
func (s Store) Remove(id string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("template %.40q: not a template id: %w", id, errdefs.ErrInvalidArgument)
	}
	return errors.Join(os.RemoveAll(s.path(id)), ignoreMissing(os.Remove(s.path(failedPrefix+id))), os.RemoveAll(s.path(sharedPrefix+id)))
}

// Fail notes that a start from a template has failed. The second time sets it aside. A line is
// appended by one write: two shims that fail at once both count.
func (s Store) Fail(id, reason string) error {
	if !idPattern.MatchString(id) {
		return fmt.Errorf("template %.40q: not a template id: %w", id, errdefs.ErrInvalidArgument)
	}
	f, err := os.OpenFile(s.path(failedPrefix+id), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	line, err := json.Marshal(map[string]any{"at": time.Now().UTC(), "reason": reason[:min(len(reason), 1<<10)]})
	if err == nil {
		_, err = f.Write(append(line, '\n'))
	}
	return errors.Join(err, f.Close())
}

// Failures is how often Fail was called for a template since it was built, as far as that matters.
// maxFailures is reached by counting lines, whatever is in them.
func (s Store) Failures(id string) int {
	data, err := readBounded(s.path(failedPrefix+id), 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return 0
	}
	if err != nil {
		return maxFailures // whatever it is: better a cold start
	}
	n := 0
	for _, b := range data {
		if b == '\n' {
			n++
		}
	}
	return n
}

// Disable has Open refuse all templates until Enable. It is a file and not a setting, so that
// `cloister template disable` works at once, without any change of the configuration.
func (s Store) Disable() error {
	if err := s.make(); err != nil {
		return err
	}
	f, err := os.OpenFile(s.path(disabledName), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return f.Close()
}

// Enable ends Disable. Failures are kept.
func (s Store) Enable() error { return ignoreMissing(os.Remove(s.path(disabledName))) }

// Disabled reports whether Disable was called. A folder that cannot be looked at counts as
// disabled. Of two errors, a cold start is the cheaper one.
func (s Store) Disabled() bool {
	_, err := os.Lstat(s.path(disabledName))
	return !errors.Is(err, fs.ErrNotExist)
}

// readBounded reads a small file, and refuses a larger one before it has taken the memory for it.
func readBounded(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() // read only
	data, err := io.ReadAll(io.LimitReader(f, most+1))
	if err == nil && int64(len(data)) > most {
		err = fmt.Errorf("%s: more than %d bytes: %w", path, most, errdefs.ErrInvalidArgument)
	}
	return data, err
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
