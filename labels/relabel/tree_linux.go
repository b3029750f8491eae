// SPDX-License-Identifier: Apache-2.0

package relabel

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"cloister/labels/lsm"
	"cloister/sys"

	"golang.org/x/sys/unix"
)

// Descriptors bound both: a guest chooses how deep and how wide its folders are.
const (
	maxDepth = 512 // each level of a tree holds one descriptor
	batch    = 128 // files of a directory that are open at once
)

// child is one file of a directory, open with O_PATH.
type child struct {
	file *os.File
	rel  string
	id   identity
	stat unix.Statx_t
}

// key names the file in the log, whatever its name is by then: a guest can rename files. Where the
// file system keeps no birth time, a new file can have the inode of one that is gone, so the name
// must fit too.
func (c child) key() string {
	key := fmt.Sprintf("/%x-%x", c.id.Inode, c.id.Birth) // no relative path begins with a slash
	if c.id.Birth == 0 {
		key += ":" + c.rel
	}
	return key
}

// before is the label that the file had, if the log knows it. Logs of earlier versions name files
// by path.
func (c child) before(log map[string]string) (label string, known bool) {
	if label, known = log[c.key()]; !known {
		label, known = log[c.rel]
	}
	return label, known
}

// walker goes through what is below a directory by descriptor, never through a link or onto another
// mount. A guest that can write to the tree can exchange names while it is walked. visit gets the
// files of a directory in batches, directories before what is in them, and does not keep them. left
// gets what was passed over, with the reason.
type walker struct {
	visit func([]child) error
	// lenient leaves what is too deep: a guest may have made it so, and must not be able to stop a
	// restore.
	lenient bool
	left    []string
}

// walk visits all below one directory. rel is its path below the item, depth the number of folders
// above it. A file that is renamed while the folder is read may be visited twice or not at all.
func (w *walker) walk(ctx context.Context, top *os.File, rel string, depth int) error {
	if depth > maxDepth && w.lenient {
		w.left = append(w.left, fmt.Sprintf("%s: it is more than %d folders deep", clip(rel), maxDepth))
		return nil
	}
	if depth > maxDepth {
		return fmt.Errorf("%w: %s is more than %d folders deep", ErrRefused, top.Name(), maxDepth)
	}
	folder, err := reopenFolder(top)
	if err != nil {
		return err
	}
	defer folder.Close() // read only
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		names, err := folder.Readdirnames(batch)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := w.visitNames(ctx, folder, rel, names, depth); err != nil {
			return err
		}
	}
}

// visitNames visits one batch of names and then goes into its directories.
func (w *walker) visitNames(ctx context.Context, folder *os.File, rel string, names []string, depth int) error {
	folders, err := w.visitBatch(folder, rel, names)
	if err != nil {
		return err
	}
	for _, name := range folders { // opened anew, so that a batch is not held open all the way down
		c, err := openChild(folder, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if c.stat.Mode&unix.S_IFMT == unix.S_IFDIR {
			err = w.walk(ctx, c.file, filepath.Join(rel, name), depth+1)
		}
		if err := errors.Join(err, c.file.Close()); err != nil {
			return err
		}
	}
	return nil
}

// visitBatch opens and visits some files of a directory and gives the names of those that are
// directories.
func (w *walker) visitBatch(folder *os.File, rel string, names []string) ([]string, error) {
	var children []child
	var folders []string
	defer func() {
		for _, c := range children {
			_ = c.file.Close() // O_PATH
		}
	}()
	for _, name := range names {
		c, err := openChild(folder, name)
		switch {
		case errors.Is(err, fs.ErrNotExist): // gone since it was listed
			continue
		case errors.Is(err, unix.EXDEV):
			w.left = append(w.left, clip(filepath.Join(folder.Name(), name))+": another file system is mounted there")
			continue
		case err != nil:
			return nil, err
		}
		c.rel = filepath.Join(rel, name)
		switch c.stat.Mode & unix.S_IFMT {
		case unix.S_IFCHR, unix.S_IFBLK:
			w.left = append(w.left, clip(c.file.Name())+": it is a device node")
			_ = c.file.Close() // O_PATH
			continue
		case unix.S_IFDIR:
			folders = append(folders, name)
		}
		children = append(children, c)
	}
	return folders, w.visit(children)
}

// openChild opens one name of a folder. A mount point gives EXDEV: what is mounted there has an
// item of its own, or none.
func openChild(folder *os.File, name string) (child, error) {
	file, err := sys.OpenBelowHere(folder, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return child{}, err
	}
	c := child{file: file}
	if c.stat, c.id, err = identify(c.file); err != nil {
		return child{}, errors.Join(err, c.file.Close())
	}
	return c, nil
}

// reopenFolder makes a directory that is open with O_PATH readable. "." is looked up in the
// descriptor itself, so it is the same directory.
func reopenFolder(f *os.File) (*os.File, error) {
	fd, err := unix.Openat(int(f.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: f.Name(), Err: err}
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}

// setTree labels what is below an item. It looks at everything first, so that what it refuses is
// refused before anything has changed. With remember, labels that are not the top's are written
// down before they are replaced: most trees have one label, and the record has that already. A file
// that cannot be labelled is reported and does not stop the rest.
func (j *Journal) setTree(ctx context.Context, name string, r record, t target, remember bool) (Report, error) {
	log := &treeLog{path: j.treePath(name)}
	links, left, err := j.lookAt(ctx, r, t, log)
	if err != nil {
		return Report{}, err
	}
	if !remember {
		log = nil
	} else if err := log.begin(); err != nil {
		return Report{}, err
	}
	report := Report{Left: left}
	setting := walker{visit: func(children []child) error {
		changed, err := j.relabelled(children, r, log, links)
		if err != nil {
			return err
		}
		for _, c := range changed {
			err := j.write(c.file, r.Label)
			if found, tolerated := unlabelled(c.file, err); tolerated {
				report.add(found)
			} else if err != nil {
				return err
			}
		}
		return nil
	}}
	return report, setting.walk(ctx, t.file, "", 0)
}

// hardLinks counts the names seen of files that have several, by inode, and keeps the last one. The
// walk does not leave the file system, so an inode number names one file.
type hardLinks struct {
	seen map[uint64]uint32
	last map[uint64]child
}

// add counts a name of a file that has several.
func (h hardLinks) add(c child) {
	if c.linked() {
		h.seen[c.stat.Ino]++
		h.last[c.stat.Ino] = c
	}
}

// outside refuses a file that has a name elsewhere: its label would change there too. A user who
// can write to a volume could otherwise link a file of the system's into it and have it labelled.
func (h hardLinks) outside(top string) error {
	for inode, seen := range h.seen {
		if c := h.last[inode]; c.stat.Nlink > seen {
			return fmt.Errorf("%w: %s has a hard link outside of %s: copy it", ErrRefused, filepath.Join(top, c.rel), top)
		}
	}
	return nil
}

func (c child) linked() bool { return c.stat.Nlink > 1 && c.stat.Mode&unix.S_IFMT != unix.S_IFDIR }

// lookAt goes through a tree that is to be labelled and changes nothing. What has the new label
// already is added to the log: it must keep it on undo.
func (j *Journal) lookAt(ctx context.Context, r record, t target, log *treeLog) (hardLinks, []string, error) {
	links := hardLinks{seen: map[uint64]uint32{}, last: map[uint64]child{}}
	w := walker{visit: func(children []child) error {
		for _, c := range children {
			links.add(c)
			if now, err := j.attr.Read(c.file); err == nil && now == r.Label {
				log.add(c.key(), now)
			}
		}
		return nil
	}}
	if err := w.walk(ctx, t.file, "", 0); err != nil {
		return links, nil, err
	}
	return links, w.left, links.outside(t.Path)
}

// relabelled picks the files that are to change, and writes down the labels that the top does not
// tell. The log is flushed before its caller changes a label. A file that has got another name
// since lookAt is refused: that name may be elsewhere.
func (j *Journal) relabelled(children []child, r record, log *treeLog, links hardLinks) ([]child, error) {
	var changed []child
	for _, c := range children {
		if c.linked() && links.seen[c.stat.Ino] == 0 {
			return nil, fmt.Errorf("%w: %s got another hard link while its folder was relabelled: try again", ErrRefused, c.file.Name())
		}
		now, err := j.attr.Read(c.file)
		if err != nil && !errors.Is(err, lsm.ErrNoLabel) && !errors.Is(err, lsm.ErrUnsupported) {
			return nil, err
		}
		if log != nil && now != r.Before && now != r.Label {
			log.add(c.key(), now)
		}
		if now != r.Label {
			changed = append(changed, c)
		}
	}
	if log == nil {
		return changed, nil
	}
	return changed, log.flush()
}

// treeLog holds pairs of file (child.key) and label, each ended by a zero byte. Where there is
// none, nothing below the top was touched. It only grows; the first entry of a file counts.
type treeLog struct {
	path    string
	pending bytes.Buffer
}

func (l *treeLog) add(key, label string) {
	l.pending.WriteString(key + "\x00" + label + "\x00")
}

// begin puts the log in place with what has been added, before anything is touched. It is there
// whole or not at all: half of a log would give the files that it lacks the top's old label.
func (l *treeLog) begin() error {
	temp := l.path + ".tmp"
	f, err := os.OpenFile(temp, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(l.pending.Bytes())
	l.pending.Reset()
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(temp, l.path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(l.path))
}

// flush appends what was added and syncs it, once for each batch of files.
func (l *treeLog) flush() error {
	if l.pending.Len() == 0 {
		return nil
	}
	f, err := os.OpenFile(l.path, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = f.Write(l.pending.Bytes())
	l.pending.Reset()
	return errors.Join(err, f.Sync(), f.Close())
}

// readTree gives the labels that were not the top's. An entry that a crash has cut off was never
// acted upon.
func readTree(text []byte) map[string]string {
	entries := map[string]string{}
	for {
		key, rest, ok := bytes.Cut(text, []byte{0})
		if !ok {
			return entries
		}
		label, rest, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return entries
		}
		if _, known := entries[string(key)]; !known {
			entries[string(key)] = string(label)
		}
		text = rest
	}
}

// restoreTree gives back what was, where the label is still the one that was set. A file that the
// log does not know had the top's label, or was made by the guest; both get the top's old one.
func (j *Journal) restoreTree(ctx context.Context, name string, r record, top *os.File) (Report, error) {
	text, err := os.ReadFile(j.treePath(name))
	if errors.Is(err, fs.ErrNotExist) {
		return Report{}, nil
	}
	if err != nil {
		return Report{}, err
	}
	before := readTree(text)
	w := walker{lenient: true, visit: func(children []child) error {
		for _, c := range children {
			goal, known := c.before(before)
			if !known {
				goal = r.goal()
			}
			if err := j.restoreChild(c, r.Label, goal); err != nil {
				return err
			}
		}
		return nil
	}}
	err = w.walk(ctx, top, "", 0)
	return Report{Left: w.left}, err
}

// restoreChild changes a label that is still the one that was set. On a file system that has become
// read-only the label stays: nothing else can be done.
func (j *Journal) restoreChild(c child, set, goal string) error {
	now, err := j.attr.Read(c.file)
	if errors.Is(err, lsm.ErrNoLabel) || errors.Is(err, lsm.ErrUnsupported) {
		return nil
	}
	if err != nil || now != set || now == goal {
		return err
	}
	if err := j.write(c.file, goal); err != nil && !errors.Is(err, unix.EROFS) {
		return err
	}
	return nil
}

// clip bounds what a report repeats of a guest's names. A path can be 4096 bytes long and the
// report names many.
func clip(text string) string {
	const most = 256
	if len(text) > most {
		return text[:most] + "..."
	}
	return text
}
