// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"cloister/sys"
)

const (
	// MaxFolders bounds what is watched of a tree: each watch is memory of the host's kernel.
	MaxFolders = 8192
	// maxPath bounds the name of a folder that is watched, below the root.
	maxPath = 1024
	// maxNames bounds what is told at once; beyond it folders are told instead of files.
	maxNames = 1024
	// settle is how long names are collected before they are told: one file is often changed in
	// many steps.
	settle = 50 * time.Millisecond
	// pace is the least time between two batches of events. It is longer where the tree had to be
	// walked, so that a program which keeps changing folders takes at most a part of a CPU.
	pace = 200 * time.Millisecond
	part = 10

	content = unix.IN_CLOSE_WRITE
	entries = unix.IN_CREATE | unix.IN_DELETE | unix.IN_MOVED_FROM | unix.IN_MOVED_TO
	// What only changes a file's times or mode is not asked for: whoever hears of a change may set
	// them.
	events = content | entries | unix.IN_EXCL_UNLINK | unix.IN_ONLYDIR
)

// Root is the name of the tree's root.
const Root = "."

// Tree is a folder with all that is below it, or a file. Somebody may change it with evil in mind:
// nothing outside of it is opened, whatever is a link meanwhile.
type Tree struct {
	root    *os.Root // nil for a file
	changes sys.Inotify
	folders map[int]string // by watch
	full    bool
	rested  <-chan time.Time
}

// Open begins to watch a folder or a file, which the caller may close then. A folder that is larger
// than MaxFolders is watched in part, see Full. Errors name the sysctl to raise.
func Open(top *os.File) (_ *Tree, err error) {
	changes, err := sys.NewInotify()
	if err != nil {
		return nil, err
	}
	t := &Tree{changes: changes, folders: map[int]string{}}
	defer func() {
		if err != nil {
			_ = t.Close()
		}
	}()
	info, err := top.Stat()
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return t, t.add(top, Root, content)
	}
	if t.root, err = os.OpenRoot(fmt.Sprintf("/proc/self/fd/%d", top.Fd())); err != nil {
		return nil, err
	}
	return t, t.grow(Root, nil)
}

// Close ends Next.
func (t *Tree) Close() error {
	if t.root == nil {
		return t.changes.Close()
	}
	return errors.Join(t.changes.Close(), t.root.Close())
}

// Full tells that the tree has folders which are not watched. It stays true once it was.
func (t *Tree) Full() bool { return t.full }

// Next waits until something has changed. A name is relative to the root, and may be gone. The
// error is os.ErrClosed after Close. Names are sorted and no more than maxNames. A folder's name
// stands for everything in it, Root for the whole tree.
func (t *Tree) Next() ([]string, error) {
	if t.rested != nil {
		// Events wait in the kernel's queue meanwhile; one that overflows says so.
		<-t.rested
	}
	changed := map[string]struct{}{}
	if err := t.read(changed); err != nil {
		return nil, err
	}
	begin := time.Now()
	// The first event is waited for without a limit, those that belong to it for settle.
	err := t.changes.SetReadDeadline(begin.Add(settle))
	for err == nil && len(changed) <= maxNames {
		err = t.read(changed)
	}
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		return nil, err
	}
	t.rested = time.After(max(pace, part*(time.Since(begin)-settle)))
	return slices.Sorted(maps.Keys(few(changed))), t.changes.SetReadDeadline(time.Time{})
}

// few gives the folders of too many names, and the root of too many folders.
func few(names map[string]struct{}) map[string]struct{} {
	if len(names) <= maxNames {
		return names
	}
	folders := map[string]struct{}{}
	for name := range names {
		folders[path.Dir(name)] = struct{}{}
	}
	if len(folders) > maxNames {
		return map[string]struct{}{Root: {}}
	}
	return folders
}

// read notes what the next events are about.
func (t *Tree) read(changed map[string]struct{}) error {
	return t.changes.Next(func(watch int, mask uint32, name string) error { return t.note(watch, mask, name, changed) })
}

// note keeps the watches in step with the tree as it goes through the events.
func (t *Tree) note(watch int, mask uint32, name string, changed map[string]struct{}) error {
	folder, known := t.folders[watch]
	switch {
	case mask&unix.IN_Q_OVERFLOW != 0: // folders may have come unseen
		changed[Root] = struct{}{}
		if t.root == nil {
			return nil
		}
		return t.grow(Root, nil)
	// The kernel has removed the watch, with its folder.
	case mask&unix.IN_IGNORED != 0:
		delete(t.folders, watch)
		return nil
	case !known || mask&(content|entries) == 0:
		return nil
	}
	name = path.Join(folder, name)
	changed[name] = struct{}{}
	switch {
	case mask&unix.IN_ISDIR == 0:
		return nil
	case mask&unix.IN_MOVED_FROM != 0:
		// Its new name comes with IN_MOVED_TO, if that is in the tree. A watch goes with the inode
		// and not with the name, so the old ones would tell wrong names.
		t.cut(name)
	case mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0:
		return t.grow(name, changed)
	}
	return nil
}

// grow watches a folder and those below it, the nearest first. What is in them already may have
// come before the watch: it is noted too. Nearest first, so that a tree which is too large has its
// top watched.
func (t *Tree) grow(name string, changed map[string]struct{}) error {
	for queue := []string{name}; len(queue) > 0; queue = queue[1:] {
		below, err := t.enter(queue[0], changed)
		if err != nil {
			return err
		}
		if len(t.folders)+len(queue) > MaxFolders {
			t.full = true
			continue
		}
		queue = append(queue, below...)
	}
	return nil
}

// enter watches one folder, and lists those that are in it. One that is gone, or a folder no more,
// is none. os.Root keeps the name below the tree's root, and O_NOFOLLOW its last part from being a
// link.
func (t *Tree) enter(name string, changed map[string]struct{}) (below []string, err error) {
	if len(name) > maxPath || len(t.folders) >= MaxFolders {
		t.full = true
		return nil, nil
	}
	f, err := t.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil // its folder has been noted
	}
	defer f.Close()
	// By the descriptor: a path could be another folder's by now. Watch first and list then, so
	// that nothing falls between the two.
	if err := t.add(f, name, events); err != nil {
		return nil, err
	}
	for err == nil { // to the end, or as far as it can be read
		var list []fs.DirEntry
		list, err = f.ReadDir(maxNames)
		for _, e := range list {
			if changed != nil && len(changed) <= maxNames {
				changed[path.Join(name, e.Name())] = struct{}{}
			}
			if e.IsDir() && len(below) < MaxFolders {
				below = append(below, path.Join(name, e.Name()))
			}
		}
	}
	return below, nil
}

// cut ends the watches of a folder that has another name now, and of those below it.
func (t *Tree) cut(name string) {
	for watch, folder := range t.folders {
		if folder == name || strings.HasPrefix(folder, name+"/") {
			t.changes.Remove(watch)
			delete(t.folders, watch)
		}
	}
}

// add watches an open file of the host, which has a name in the tree. A folder that is watched
// already keeps its watch and gets its new name.
func (t *Tree) add(f *os.File, name string, mask uint32) error {
	watch, err := t.changes.Add(f, mask)
	if err != nil {
		return fmt.Errorf("watch %q: %w", name, err)
	}
	t.folders[watch] = name
	return nil
}
