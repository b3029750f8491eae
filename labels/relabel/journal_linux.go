// SPDX-License-Identifier: Apache-2.0

package relabel

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"

	"cloister/labels"
	"cloister/labels/internal/flock"
	"cloister/labels/lsm"
	"cloister/sys"
)

const (
	sandboxesFolder = "sandboxes" // one folder per sandbox: head and one file per record it holds
	filesFolder     = "files"     // by boot: one record per labelled file
	locksFolder     = "locks"
	headFile        = "head.json"
	treeSuffix      = ".tree" // labels in a tree that are not its top's
)

// Attributes read and write labels on open files; nil means the kernel's, through lsm. A file
// without a label gives lsm.ErrNoLabel; writing the empty label removes it.
type Attributes interface {
	Read(f *os.File) (string, error)
	Write(f *os.File, label string) error
}

type kernelAttributes struct{}

func (kernelAttributes) Read(f *os.File) (string, error)      { return lsm.RawFileLabel(f) }
func (kernelAttributes) Write(f *os.File, label string) error { return lsm.SetRawFileLabel(f, label) }

// Options are what the journal is told. Dir, Self with its boot, and Alive are required.
type Options struct {
	// Dir is the journal's folder, on a disk that survives a reboot, as labels on files do; it is
	// made when absent.
	Dir string
	// Self is the process that answers for what is labelled.
	Self sys.Process
	// Alive tells whether an owner still runs: the same process, not another with its pid. An error
	// keeps its sandbox from being replayed.
	Alive func(sys.Process) (bool, error)
	// Carried tells whether a process carries a level: what a dead owner's machine still uses is
	// left. nil: never.
	Carried func(context.Context, labels.Level) (bool, error)
	// AllowWholeDisks accepts block devices that are not partitions or volumes.
	AllowWholeDisks bool
	// Attributes are the kernel's when nil.
	Attributes Attributes
}

// Journal labels files and remembers. It keeps nothing of its files in memory: all is read from
// disk under locks, so that any number of processes may have one open.
type Journal struct {
	options Options
	attr    Attributes
	system  system
}

// Open prepares the folder. Replay is called next, before anything is labelled. The system's
// folders are looked up now; a bind mount that is made later has other names but the same inodes.
func Open(o Options) (*Journal, error) {
	if o.Alive == nil || o.Self.Boot == "" || strings.ContainsAny(o.Self.Boot, "/.") {
		return nil, errors.New("open the relabel journal: want Options.Self and Options.Alive")
	}
	for _, folder := range []string{sandboxesFolder, filepath.Join(filesFolder, o.Self.Boot), locksFolder} {
		if err := os.MkdirAll(filepath.Join(o.Dir, folder), 0o700); err != nil {
			return nil, fmt.Errorf("open the relabel journal: %w: %s must be a folder labelled as the policy has it: restorecon -RF %s",
				err, o.Dir, o.Dir)
		}
	}
	j := &Journal{options: o, attr: o.Attributes, system: newSystem(closed(), tops())}
	if j.attr == nil {
		j.attr = kernelAttributes{}
	}
	return j, nil
}

// folder is where a sandbox's part of the journal lies. Names are escaped, since they may have a
// slash, and bounded: a file name may have 255 bytes.
func (j *Journal) folder(sandbox string) (string, error) {
	name := url.PathEscape(sandbox)
	if sandbox == "" || len(name) > 250 || name[0] == '.' {
		return "", fmt.Errorf("sandbox name %q: want 1 to 250 bytes that start with no dot", sandbox)
	}
	return filepath.Join(j.options.Dir, sandboxesFolder, name), nil
}

// A record's name is "boot/key", as it stands in a sandbox's folder.
func (j *Journal) recordPath(name string) string {
	return filepath.Join(j.options.Dir, filesFolder, name) + ".json"
}

// treePath is the log of labels below a record's file. It is beside the record and not in it: it
// can have an entry for each file of a volume, and only grows while the tree is labelled.
func (j *Journal) treePath(name string) string {
	return filepath.Join(j.options.Dir, filesFolder, name) + treeSuffix
}

// lock takes one of a fixed number of locks; what has the same lock only waits. So the folder of
// locks does not grow with the files that were ever labelled. A sandbox's is taken before a file's,
// and never two of one kind, so that nobody waits in a circle.
func (j *Journal) lock(ctx context.Context, kind, name string) (*os.File, error) {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(name))
	path := filepath.Join(j.options.Dir, locksFolder, fmt.Sprintf("%s-%02x", kind, hash.Sum32()&0xff))
	f, err := flock.Take(ctx, path)
	if err != nil {
		return nil, fmt.Errorf("lock the relabel journal: %w", err)
	}
	return f, nil
}

// Pending tells whether something of a sandbox is still to be undone. The registry asks it before
// it gives a dead owner's level out.
func (j *Journal) Pending(sandbox string) (bool, error) {
	folder, err := j.folder(sandbox)
	if err != nil {
		return false, err
	}
	_, err = os.Lstat(filepath.Join(folder, headFile)) // before its head is there, nothing has been labelled
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Held lists the levels that files still carry from an earlier boot: those must not be given out.
// The registry's own entries went with that boot. Levels of this boot are in the registry. A
// journal that cannot be read is an error, since nobody could tell what is held.
func (j *Journal) Held() ([]labels.Level, error) {
	heads, err := j.heads()
	if err != nil {
		return nil, fmt.Errorf("read the relabel journal: %w", err)
	}
	var levels []labels.Level
	for _, h := range heads {
		if h.Owner.Boot != j.options.Self.Boot {
			levels = append(levels, h.Level)
		}
	}
	return levels, nil
}

// heads lists the sandboxes that have labelled something. It returns those it can read, and an
// error for the others.
func (j *Journal) heads() ([]head, error) {
	entries, err := os.ReadDir(filepath.Join(j.options.Dir, sandboxesFolder))
	if err != nil {
		return nil, err
	}
	var heads []head
	var problems []error
	for _, entry := range entries {
		folder := filepath.Join(j.options.Dir, sandboxesFolder, entry.Name())
		h, err := j.loadHead(folder)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		heads = append(heads, h)
	}
	return heads, errors.Join(problems...)
}

// Use is one file that a sandbox has labelled, as `cloister labels` shows it.
type Use struct {
	Sandbox string
	Owner   sys.Process
	Path    string
	// Label is what it was given, Before what it had ("" for none), as written on the file.
	Label, Before string
	// Remember is whether it gets Before back.
	Remember bool
}

// Uses lists the journal, for people. It returns the entries it can read, and an error that names
// those it cannot.
func (j *Journal) Uses() ([]Use, error) {
	heads, err := j.heads()
	problems := []error{err}
	var uses []Use
	for _, h := range heads {
		folder, err := j.folder(h.Sandbox)
		if err != nil {
			problems = append(problems, err)
			continue
		}
		notes, err := notesIn(folder)
		problems = append(problems, err)
		for _, name := range notes {
			r, err := j.loadRecord(name)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				problems = append(problems, err)
				continue
			}
			uses = append(uses, Use{
				Sandbox: h.Sandbox, Owner: h.Owner, Path: r.Path, Label: r.Label,
				Before: r.Before, Remember: r.Remember,
			})
		}
	}
	if err := errors.Join(problems...); err != nil {
		return uses, fmt.Errorf("read the relabel journal: %w", err)
	}
	return uses, nil
}

// notesIn gives the names of the records that a sandbox's folder notes.
func notesIn(folder string) ([]string, error) {
	entries, err := os.ReadDir(folder)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if key, boot, ok := strings.Cut(entry.Name(), "@"); ok {
			names = append(names, filepath.Join(boot, key))
		}
	}
	return names, nil
}
