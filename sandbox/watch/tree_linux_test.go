// SPDX-License-Identifier: Apache-2.0

package watch

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// open watches a new folder that has the files; a name with a slash at its end is a folder.
func open(t *testing.T, names ...string) (*Tree, string) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range names {
		put(t, filepath.Join(dir, name), strings.HasSuffix(name, "/"))
	}
	tree, err := openAt(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = tree.Close() })
	return tree, dir
}

// openAt watches what has a name.
func openAt(name string) (*Tree, error) {
	top, err := os.OpenFile(name, unix.O_PATH, 0)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	return Open(top)
}

func put(t *testing.T, name string, folder bool) {
	t.Helper()
	var err error
	if folder {
		err = os.MkdirAll(name, 0o755)
	} else {
		err = os.WriteFile(name, []byte("x"), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// until reads names until want has been among them, and gives all of them.
func until(t *testing.T, tree *Tree, want string) []string {
	t.Helper()
	var all []string
	for !slices.Contains(all, want) {
		names, err := tree.Next()
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, names...)
	}
	return all
}

func TestChanges(t *testing.T) {
	for _, tt := range []struct {
		what   string
		has    []string
		change func(dir string) error
		want   []string
	}{
		{"written", []string{"f"}, func(d string) error { return os.WriteFile(d+"/f", nil, 0) }, []string{"f"}},
		{"made below", []string{"a/b/"}, func(d string) error { return os.WriteFile(d+"/a/b/f", nil, 0o600) }, []string{"a/b/f"}},
		{"removed", []string{"a/", "a/f"}, func(d string) error { return os.Remove(d + "/a/f") }, []string{"a/f"}},
		{"moved", []string{"a/", "a/f"}, func(d string) error { return os.Rename(d+"/a/f", d+"/g") }, []string{"a/f", "g"}},
		{"linked", []string{"f"}, func(d string) error { return os.Symlink("f", d+"/g") }, []string{"g"}},
		{"moved folder", []string{"a/b/"}, func(d string) error {
			return errors.Join(os.Rename(d+"/a", d+"/c"), os.WriteFile(d+"/c/b/f", nil, 0o600))
		}, []string{"a", "c", "c/b", "c/b/f"}},
		{"removed folder, made anew", []string{"a/"}, func(d string) error {
			return errors.Join(os.Remove(d+"/a"), os.Mkdir(d+"/a", 0o700), os.WriteFile(d+"/a/f", nil, 0o600))
		}, []string{"a", "a/f"}},
	} {
		t.Run(tt.what, func(t *testing.T) {
			tree, dir := open(t, tt.has...)
			if err := errors.Join(tt.change(dir), os.Mkdir(dir+"/~", 0o700)); err != nil {
				t.Fatal(err)
			}
			got := until(t, tree, "~")
			slices.Sort(got)
			if got = slices.Compact(got); !slices.Equal(got, append(tt.want, "~")) {
				t.Errorf("changed %q, want %q", got, tt.want)
			}
		})
	}
}

// TestTimesAndModesAreNotReported has the times and modes that the guest sets told to nobody: it
// would go round for ever.
func TestTimesAndModesAreNotReported(t *testing.T) {
	tree, dir := open(t, "f", "a/")
	for _, name := range []string{dir + "/f", dir + "/a", dir} {
		times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_NOW}}
		if err := errors.Join(unix.UtimesNanoAt(unix.AT_FDCWD, name, times, 0), os.Chmod(name, 0o700)); err != nil {
			t.Fatal(err)
		}
	}
	put(t, dir+"/end", false)
	if got := until(t, tree, "end"); len(slices.Compact(got)) != 1 {
		t.Errorf("reported %q, want only the new files", got)
	}
}

// TestFile watches a single file, whoever else is in its folder.
func TestFile(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/f", false)
	tree, err := openAt(dir + "/f")
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	put(t, dir+"/g", false)
	put(t, dir+"/f", false)
	if got, err := tree.Next(); err != nil || !slices.Equal(got, []string{Root}) {
		t.Errorf("Next() = %q, %v", got, err)
	}
}

// TestTreeFollowsNoLink has a folder become a link that leads out of the tree, before and after it
// was seen.
func TestTreeFollowsNoLink(t *testing.T) {
	outside := t.TempDir()
	put(t, outside+"/secret/deep", true)
	tree, dir := open(t, "a/b/")
	if err := errors.Join(os.Symlink(outside, dir+"/link"), os.RemoveAll(dir+"/a"), os.Symlink(outside, dir+"/a")); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/linked", true)
	until(t, tree, "linked")
	// A walk that gets a name which has become a link since.
	for _, name := range []string{"a", "a/secret", "link/secret", "../" + filepath.Base(outside)} {
		if err := tree.grow(name, nil); err != nil {
			t.Fatal(err)
		}
	}
	put(t, outside+"/secret/f", false)
	put(t, outside+"/secret/deep/f", false)
	put(t, dir+"/end", false)
	if got := until(t, tree, "end"); len(slices.Compact(got)) != 1 {
		t.Errorf("reported %q, want only files of the tree", got)
	}
}

// TestFIFODoesNotBlock has a FIFO where a folder was: who opens it would wait for a writer.
func TestFIFODoesNotBlock(t *testing.T) {
	tree, dir := open(t)
	if err := unix.Mkfifo(dir+"/p", 0o600); err != nil {
		t.Fatal(err)
	}
	if err := tree.grow("p", nil); err != nil {
		t.Fatal(err)
	}
	if got := until(t, tree, "p"); len(got) != 1 {
		t.Errorf("reported %q", got)
	}
}

// TestManyChangesAreReportedByFolder makes more files than are told by name: their folders are, and
// beyond that the root.
func TestManyChangesAreReportedByFolder(t *testing.T) {
	files := func(folder string, n int) map[string]struct{} {
		out := map[string]struct{}{}
		for i := range n {
			out[fmt.Sprintf(folder, i)] = struct{}{}
		}
		return out
	}
	for _, tt := range []struct {
		names map[string]struct{}
		want  int
		one   string
	}{
		{files("a/%d", maxNames), maxNames, "a/0"},
		{files("a/%d", maxNames+1), 1, "a"},
		{files("%d/f", maxNames+1), 1, Root},
	} {
		got := few(tt.names)
		if _, ok := got[tt.one]; len(got) != tt.want || !ok {
			t.Errorf("%d names became %d, want %d with %q", len(tt.names), len(got), tt.want, tt.one)
		}
	}
	tree, dir := open(t)
	for i := range maxNames + 2 {
		put(t, fmt.Sprintf("%s/%d", dir, i), false)
	}
	until(t, tree, Root)
}

// TestOverflowIsFollowedByAScan loses the kernel's events: the folders that came meanwhile are
// watched.
func TestOverflowIsFollowedByAScan(t *testing.T) {
	tree, dir := open(t)
	put(t, dir+"/before", true)
	changed := map[string]struct{}{}
	if err := tree.note(-1, unix.IN_Q_OVERFLOW, "", changed); err != nil {
		t.Fatal(err)
	}
	if _, ok := changed[Root]; !ok {
		t.Errorf("noted %v, want the root", changed)
	}
	put(t, dir+"/before/f", false)
	until(t, tree, "before/f")
	file, err := openAt(dir + "/before/f")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := file.note(-1, unix.IN_Q_OVERFLOW, "", map[string]struct{}{}); err != nil {
		t.Errorf("a file's events are lost: %v", err)
	}
}

// TestFoldersAreBounded stops at a number of folders and says so.
func TestFoldersAreBounded(t *testing.T) {
	tree, dir := open(t)
	for i := range MaxFolders {
		tree.folders[-i-2] = "other"
	}
	put(t, dir+"/a", true)
	until(t, tree, "a")
	if !tree.Full() {
		t.Error("a folder beyond the bound was watched")
	}
	deep, dir := open(t)
	put(t, filepath.Join(dir, strings.Repeat(strings.Repeat("d", 200)+"/", 6)), true)
	until(t, deep, strings.Repeat("d", 200))
	if !deep.Full() {
		t.Error("a very long name was watched")
	}
}

func TestClose(t *testing.T) {
	tree, _ := open(t)
	ended := make(chan error)
	go func() {
		_, err := tree.Next()
		ended <- err
	}()
	if err := tree.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, os.ErrClosed) {
		t.Errorf("Next() = %v, want os.ErrClosed", err)
	}
	if _, err := openAt("/no/such/folder"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open() = %v, want os.ErrNotExist", err)
	}
}
