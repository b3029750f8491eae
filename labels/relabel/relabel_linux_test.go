// SPDX-License-Identifier: Apache-2.0

package relabel

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"cloister/labels"
	"cloister/labels/lsm"
	"cloister/sys"
	"cloister/tests/testenv"

	"golang.org/x/sys/unix"
)

const (
	guestA = "system_u:object_r:cloister_image_t:s0:c1,c2"
	guestB = "system_u:object_r:cloister_image_t:s0:c3,c4"
	oldOne = "system_u:object_r:tmp_t:s0"
	oldTwo = "system_u:object_r:user_home_t:s0"
)

// world is a folder of labelled files and a journal beside it.
type world struct {
	t       *testing.T
	dir     string // real path of the files
	journal string
	boot    string
	dead    map[int]bool
	carried map[labels.Level]bool
	attr    Attributes
}

func newWorld(t *testing.T) *world {
	t.Helper()
	testenv.NeedRoot(t)
	dir, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, dir: dir, journal: t.TempDir(), boot: "boot-1", dead: map[int]bool{}, carried: map[labels.Level]bool{}}
	probe := w.file("probe", "")
	if err := unix.Lsetxattr(probe, "security.selinux", []byte(oldOne), 0); err != nil {
		testenv.Need(t, testenv.Root, dir+" takes no labels: "+err.Error())
	}
	if err := os.Remove(probe); err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) open(pid int) *Journal {
	w.t.Helper()
	j, err := Open(Options{
		Dir: w.journal, Self: sys.Process{PID: pid, Start: 1, Boot: w.boot}, Attributes: w.attr,
		Alive:   func(o sys.Process) (bool, error) { return o.Boot == w.boot && !w.dead[o.PID], nil },
		Carried: func(_ context.Context, l labels.Level) (bool, error) { return w.carried[l], nil },
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return j
}

// file makes a file with a label, or without one.
func (w *world) file(name, label string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(name), 0o600); err != nil {
		w.t.Fatal(err)
	}
	w.label(path, label)
	return path
}

func (w *world) label(path, label string) {
	w.t.Helper()
	if label == "" {
		return
	}
	if err := unix.Lsetxattr(path, "security.selinux", []byte(label), 0); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) want(path, want string) {
	w.t.Helper()
	buffer := make([]byte, 256)
	n, err := unix.Lgetxattr(path, "security.selinux", buffer)
	if err != nil && !errors.Is(err, unix.ENODATA) {
		w.t.Fatal(err)
	}
	if got := strings.TrimRight(string(buffer[:max(n, 0)]), "\x00"); got != want {
		w.t.Errorf("label of %s is %q, want %q", path, got, want)
	}
}

// wantEmpty checks that the journal remembers nothing.
func (w *world) wantEmpty() {
	w.t.Helper()
	for _, folder := range []string{sandboxesFolder, filesFolder} {
		err := filepath.WalkDir(filepath.Join(w.journal, folder), func(path string, d fs.DirEntry, err error) error {
			if err == nil && (!d.IsDir() || filepath.Base(filepath.Dir(path)) == sandboxesFolder) {
				w.t.Errorf("the journal still has %s", path)
			}
			return err
		})
		if err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) apply(j *Journal, sandbox string, items ...Item) Report {
	w.t.Helper()
	report, err := j.Apply(w.t.Context(), sandbox, items[0].Label.Range.High, items)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

func (w *world) restore(j *Journal, sandbox string) Report {
	w.t.Helper()
	report, err := j.Restore(w.t.Context(), sandbox)
	if err != nil {
		w.t.Fatal(err)
	}
	return report
}

func label(t *testing.T, text string) labels.Label {
	t.Helper()
	l, err := labels.Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func item(t *testing.T, path, text string) Item {
	t.Helper()
	return Item{Path: path, Label: label(t, text), Remember: true}
}

func TestApplyAndRestore(t *testing.T) {
	w := newWorld(t)
	j := w.open(1)
	labelled, bare, shared, ours := w.file("labelled", oldOne), w.file("bare", ""), w.file("shared", oldOne), w.file("ours", oldOne)
	items := []Item{
		item(t, labelled, guestA), item(t, bare, guestA), item(t, ours, guestA),
		item(t, shared, "system_u:object_r:cloister_content_t:s0"),
	}
	items[2].After = label(t, "system_u:object_r:virt_image_t:s0")
	items[3].Remember = false
	if report := w.apply(j, "ns/a", items...); len(report.Unlabelled)+len(report.Left) > 0 {
		t.Errorf("Apply = %+v, want nothing to tell", report)
	}
	for _, path := range []string{labelled, bare, ours} {
		w.want(path, guestA)
	}
	w.want(shared, items[3].Label.String())
	if pending, err := j.Pending("ns/a"); err != nil || !pending {
		t.Errorf("Pending = %v, %v, want true", pending, err)
	}
	uses, err := j.Uses()
	if err != nil || len(uses) != len(items) || !slices.ContainsFunc(uses, func(u Use) bool {
		return u.Sandbox == "ns/a" && u.Path == labelled && u.Label == guestA && u.Before == oldOne && u.Remember
	}) {
		t.Errorf("Uses = %+v, %v, want the %d items", uses, err, len(items))
	}
	for range 2 { // an undo may be repeated
		w.restore(j, "ns/a")
	}
	w.want(labelled, oldOne)
	w.want(bare, "")
	w.want(ours, items[2].After.String())
	w.want(shared, items[3].Label.String())
	if pending, err := j.Pending("ns/a"); err != nil || pending {
		t.Errorf("Pending = %v, %v, want false", pending, err)
	}
	w.wantEmpty()
}

func TestTwoSandboxesOneFile(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(1), w.open(2)
	disk := w.file("disk", oldOne)
	alias := filepath.Join(w.dir, "alias") // another name of the same file hides nothing
	if err := os.Link(disk, alias); err != nil {
		t.Fatal(err)
	}
	w.apply(a, "ns/a", item(t, disk, guestA))
	_, err := b.Apply(t.Context(), "ns/b", labels.Level{}, []Item{item(t, alias, guestB)})
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), "ns/a") {
		t.Errorf("Apply of another label = %v, want %v naming ns/a", err, ErrInUse)
	}
	w.want(disk, guestA)
	if pending, _ := b.Pending("ns/b"); pending {
		t.Error("the refused sandbox left something in the journal")
	}
	w.apply(b, "ns/b", item(t, alias, guestA))
	w.restore(a, "ns/a")
	w.want(disk, guestA)
	w.restore(b, "ns/b")
	w.want(disk, oldOne)
	w.apply(a, "ns/a", item(t, disk, guestA))
	w.dead[1] = true
	w.carried[label(t, guestA).Range.High] = true
	if _, err := b.Apply(t.Context(), "ns/b", labels.Level{}, []Item{item(t, disk, guestB)}); !errors.Is(err, ErrInUse) {
		t.Errorf("Apply while a dead owner's machine runs = %v, want %v", err, ErrInUse)
	}
	clear(w.carried)
	w.apply(b, "ns/b", item(t, disk, guestB))
	w.want(disk, guestB)
	w.restore(b, "ns/b")
	w.want(disk, oldOne)
	w.wantEmpty()
}

// makeTree makes a folder of all kinds and gives the labels that it starts with.
func (w *world) makeTree() (top string, before map[string]string) {
	w.t.Helper()
	top = filepath.Join(w.dir, "volume")
	before = map[string]string{
		w.file("volume/plain", oldOne): oldOne, w.file("volume/deep/er/other", oldTwo): oldTwo, w.file("volume/deep/bare", ""): "",
		w.file("volume/already", guestA): guestA, w.file("outside", oldTwo): oldTwo,
	}
	link, fifo := filepath.Join(top, "link"), filepath.Join(top, "deep/fifo")
	if err := os.Symlink(filepath.Join(w.dir, "outside"), link); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Link(filepath.Join(top, "plain"), filepath.Join(top, "deep/plain")); err != nil {
		w.t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		w.t.Fatal(err)
	}
	before[link], before[fifo] = "", ""
	for _, dir := range []string{"", "deep", "deep/er"} {
		path := filepath.Join(top, dir)
		w.label(path, oldOne)
		before[path] = oldOne
	}
	for i := range 3 * batch { // more than one batch of a directory
		before[w.file(fmt.Sprintf("volume/many/%d", i), oldOne)] = oldOne
	}
	before[filepath.Join(top, "many")] = ""
	return top, before
}

func TestTree(t *testing.T) {
	w := newWorld(t)
	j := w.open(1)
	top, before := w.makeTree()
	node := filepath.Join(top, "null")
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	tree := item(t, top, guestA)
	tree.Recursive = true
	for range 2 { // a second container of the sandbox may ask again
		report := w.apply(j, "ns/a", tree)
		if len(report.Left) == 0 || !strings.HasPrefix(report.Left[0], node) {
			t.Errorf("Apply left %v, want the device node", report.Left)
		}
	}
	for path := range before {
		if strings.HasPrefix(path, top) {
			w.want(path, guestA)
		}
	}
	w.want(filepath.Join(w.dir, "outside"), oldTwo)
	w.want(node, "")
	made := w.file("volume/deep/made by the guest", guestA)
	foreign := w.file("volume/deep/relabelled since", "system_u:object_r:etc_t:s0")
	w.restore(j, "ns/a")
	for path, want := range before {
		w.want(path, want)
	}
	w.want(made, oldOne)
	w.want(foreign, "system_u:object_r:etc_t:s0")
	w.wantEmpty()
}

func TestTreeRefusesLinksOutside(t *testing.T) {
	w := newWorld(t)
	j := w.open(1)
	top, before := w.makeTree()
	if err := os.Link(filepath.Join(w.dir, "outside"), filepath.Join(top, "deep/trap")); err != nil {
		t.Fatal(err)
	}
	tree := item(t, top, guestA)
	tree.Recursive = true
	if _, err := j.Apply(t.Context(), "ns/a", labels.Level{}, []Item{tree}); !errors.Is(err, ErrRefused) ||
		!strings.Contains(err.Error(), "deep/trap") {
		t.Errorf("Apply = %v, want %v naming the link", err, ErrRefused)
	}
	for path, want := range before {
		w.want(path, want)
	}
	w.wantEmpty()
}

func TestTreeStaysOnItsMount(t *testing.T) {
	w := newWorld(t)
	j := w.open(1)
	top, _ := w.makeTree()
	below := filepath.Join(top, "mounted")
	if err := os.Mkdir(below, 0o700); err != nil {
		t.Fatal(err)
	}
	other := filepath.Join(w.dir, "other")
	inside := w.file("other/file", oldTwo)
	if err := unix.Mount(other, below, "", unix.MS_BIND, ""); err != nil {
		testenv.Need(t, testenv.Root, "no bind mount: "+err.Error())
	}
	t.Cleanup(func() { _ = unix.Unmount(below, unix.MNT_DETACH) })
	tree := item(t, top, guestA)
	tree.Recursive = true
	if report := w.apply(j, "ns/a", tree); len(report.Left) != 1 || !strings.HasPrefix(report.Left[0], below) {
		t.Errorf("Apply left %v, want the mount", report.Left)
	}
	w.want(inside, oldTwo)
	w.restore(j, "ns/a")
	w.want(filepath.Join(top, "plain"), oldOne)
}

func TestRefused(t *testing.T) {
	w := newWorld(t)
	j := w.open(1)
	file := w.file("real/file", oldOne)
	if err := os.Symlink(filepath.Join(w.dir, "real"), filepath.Join(w.dir, "linked")); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(file, filepath.Join(w.dir, "link")); err != nil {
		t.Fatal(err)
	}
	bind := filepath.Join(w.dir, "bind")
	if err := os.Mkdir(bind, 0o700); err != nil {
		t.Fatal(err)
	}
	paths := []string{
		"/", "/etc", "/etc/passwd", "/etc/ssl", "/usr", "/usr/bin", "/bin/sh", "/var", "/var/lib", "/home",
		"/home/user", "/root", "/root/x",
		"/tmp", "/dev", "/dev/null", "/dev/shm",
		"/proc", "/proc/self/status", "/sys", "/run", "/boot", "/var/lib/cloister", "/nonexistent/file",
		"relative", w.dir + "/../x", w.dir + "/", w.dir + "/linked/file", w.dir + "/link", "/proc/self/root" + file,
	}
	if err := unix.Mount("/etc", bind, "", unix.MS_BIND, ""); err == nil {
		t.Cleanup(func() { _ = unix.Unmount(bind, unix.MNT_DETACH) })
		paths = append(paths, bind, bind+"/passwd")
	}
	for _, path := range paths {
		_, err := j.Apply(t.Context(), "ns/a", labels.Level{}, []Item{item(t, path, guestA)})
		if !errors.Is(err, ErrRefused) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("Apply(%s) = %v, want %v", path, err, ErrRefused)
		}
	}
	w.want(file, oldOne)
	if _, err := j.Apply(t.Context(), "ns/a", labels.Level{}, []Item{{Path: file}}); !errors.Is(err, lsm.ErrInvalid) {
		t.Errorf("Apply without a label = %v, want %v", err, lsm.ErrInvalid)
	}
	if _, err := j.Apply(t.Context(), "../x", labels.Level{}, []Item{item(t, file, guestA)}); err == nil {
		t.Error("Apply accepted a sandbox name that starts with a dot")
	}
	w.wantEmpty()
}

// faulty fails or lies at one write.
type faulty struct {
	at, writes int
	fail       error
	lie        bool
	lies       map[string]string
}

func (a *faulty) Read(f *os.File) (string, error) {
	if text, lied := a.lies[f.Name()]; lied {
		return text, nil
	}
	return lsm.RawFileLabel(f)
}

func (a *faulty) Write(f *os.File, label string) error {
	a.writes++
	switch {
	case a.writes != a.at:
		return lsm.SetRawFileLabel(f, label)
	case a.lie:
		a.lies[f.Name()] = oldTwo
		a.lie = false
		return lsm.SetRawFileLabel(f, oldTwo)
	}
	return a.fail
}

func TestFailedApplyRestoresLabels(t *testing.T) {
	w := newWorld(t)
	top, before := w.makeTree()
	disk := w.file("disk", oldTwo)
	before[disk] = oldTwo
	tree := item(t, top, guestA)
	tree.Recursive = true
	for _, at := range []int{1, 2, 100, len(before) - 2} {
		w.attr = &faulty{at: at, fail: unix.EACCES}
		if _, err := w.open(1).Apply(t.Context(), "ns/a", labels.Level{},
			[]Item{item(t, disk, guestA), tree}); !errors.Is(err, unix.EACCES) {
			t.Errorf("Apply failing at write %d = %v, want EACCES", at, err)
		}
		for path, want := range before {
			w.want(path, want)
		}
		w.wantEmpty()
	}
	forgotten := []Item{{Path: disk, Label: label(t, guestA)}, {Path: top, Label: label(t, guestA), Recursive: true}}
	for _, at := range []int{2, 100, len(before) - 2} {
		w.attr = &faulty{at: at, fail: unix.EACCES}
		if _, err := w.open(1).Apply(t.Context(), "ns/a", labels.Level{}, forgotten); !errors.Is(err, unix.EACCES) {
			t.Errorf("Apply of items not remembered, failing at write %d = %v, want EACCES", at, err)
		}
		for path, want := range before {
			w.want(path, want)
		}
		w.wantEmpty()
	}
	w.attr = &faulty{at: 1, lie: true, lies: map[string]string{}}
	if _, err := w.open(1).Apply(t.Context(), "ns/a", labels.Level{}, []Item{item(t, disk, guestA)}); !errors.Is(err, lsm.ErrWrongLabel) {
		t.Errorf("Apply that reads back wrong = %v, want %v", err, lsm.ErrWrongLabel)
	}
}

func TestFileSystemsWithoutLabels(t *testing.T) {
	w := newWorld(t)
	disk := w.file("disk", oldOne)
	for _, fail := range []error{lsm.ErrUnsupported, unix.EROFS} {
		w.attr = &faulty{at: 1, fail: fail}
		j := w.open(1)
		report := w.apply(j, "ns/a", item(t, disk, guestA))
		if len(report.Unlabelled) != 1 || report.Unlabelled[0].ReadOnly != errors.Is(fail, unix.EROFS) {
			t.Errorf("Apply with %v = %+v, want one file reported", fail, report)
		}
		w.restore(j, "ns/a")
		w.want(disk, oldOne)
		w.wantEmpty()
	}
	for magic, want := range map[int64]string{
		unix.NFS_SUPER_MAGIC: "nfs", unix.FUSE_SUPER_MAGIC: "fuse",
		unix.CIFS_SUPER_MAGIC: "cifs", unix.EXT4_SUPER_MAGIC: "file system 0xef53",
	} {
		if got := fileSystem(magic); got != want {
			t.Errorf("fileSystem(%#x) = %q, want %q", magic, got, want)
		}
	}
	for _, u := range []Unlabelled{{Path: "/x", FileSystem: "nfs"}, {Path: "/x", ReadOnly: true}} {
		if text := u.String(); !strings.Contains(text, "context=") || strings.Contains(text, "setsebool") {
			t.Errorf("String = %q, want the mount option, since no boolean of the base policy is about cloister's types", text)
		}
	}
}

func TestReplayAfterReboot(t *testing.T) {
	w := newWorld(t)
	disk, lost, replaced := w.file("disk", oldOne), w.file("lost", oldOne), w.file("replaced", oldOne)
	w.apply(w.open(1), "ns/a", item(t, disk, guestA), item(t, lost, guestA), item(t, replaced, guestA))
	if err := errors.Join(os.Remove(lost), os.Remove(replaced)); err != nil {
		t.Fatal(err)
	}
	w.file("filler", "") // may take an inode
	w.file("replaced", oldTwo)
	w.boot = "boot-2"
	j := w.open(1)
	if held, err := j.Held(); err != nil || !slices.Equal(held, []labels.Level{label(t, guestA).Range.High}) {
		t.Errorf("Held = %v, %v, want the level of ns/a", held, err)
	}
	if done, err := j.Replay(t.Context()); err != nil || !slices.Equal(done, []string{"ns/a"}) {
		t.Errorf("Replay = %v, %v, want ns/a", done, err)
	}
	w.want(disk, oldOne)
	w.want(replaced, oldTwo)
	w.wantEmpty()
}

func TestReplayWaitsForTheMount(t *testing.T) {
	w := newWorld(t)
	disk := w.file("disk", oldOne)
	w.apply(w.open(1), "ns/a", item(t, disk, guestA))
	away := disk + ".away"
	if err := os.Rename(disk, away); err != nil {
		t.Fatal(err)
	}
	w.boot = "boot-2"
	j := w.open(1)
	name := only(t, filepath.Join(w.journal, filesFolder, "boot-1", "*.json"))
	var r record
	if err := load(name, &r); err != nil {
		t.Fatal(err)
	}
	right := r.MountID
	r.MountID.Inode++ // as if something else were mounted there
	if err := store(name, r); err != nil {
		t.Fatal(err)
	}
	if done, err := j.Replay(t.Context()); err != nil || len(done) != 0 {
		t.Errorf("Replay = %v, %v, want nothing done", done, err)
	}
	if held, err := j.Held(); err != nil || len(held) != 1 {
		t.Errorf("Held = %v, %v, want the level kept", held, err)
	}
	r.MountID = right
	if err := errors.Join(store(name, r), os.Rename(away, disk)); err != nil {
		t.Fatal(err)
	}
	if done, err := j.Replay(t.Context()); err != nil || len(done) != 1 {
		t.Errorf("Replay = %v, %v, want ns/a", done, err)
	}
	w.want(disk, oldOne)
	w.wantEmpty()
}

func TestCorrupt(t *testing.T) {
	for _, what := range []string{filepath.Join(sandboxesFolder, "ns%2Fa", headFile), filepath.Join(filesFolder, "boot-1", "*.json")} {
		for _, text := range []string{"", "{", "{}"} {
			w := newWorld(t)
			disk := w.file("disk", oldOne)
			j := w.open(1)
			w.apply(j, "ns/a", item(t, disk, guestA))
			path := only(t, filepath.Join(w.journal, what))
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			w.dead[1] = true
			if _, err := w.open(2).Replay(t.Context()); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), path) {
				t.Errorf("Replay over %q = %v, want %v naming %s", text, err, ErrCorrupt, path)
			}
		}
	}
}

// TestManyAtOnce lets sandboxes of two pairs come and go over one disk and one tree: what is in use
// never changes, and the last one to leave puts back what was.
func TestManyAtOnce(t *testing.T) {
	w := newWorld(t)
	disk := w.file("disk", oldOne)
	volume := filepath.Dir(w.file("volume/one", oldTwo))
	w.label(volume, oldOne)
	var group sync.WaitGroup
	var used atomic.Int32
	for n := range 16 {
		j := w.open(n + 1)
		group.Go(func() {
			sandbox, mine := fmt.Sprintf("ns/%d", n), []string{guestA, guestB}[n%2]
			tree := item(t, volume, mine)
			tree.Recursive = true
			for range 20 {
				_, err := j.Apply(t.Context(), sandbox, label(t, mine).Range.High, []Item{item(t, disk, mine), tree})
				if errors.Is(err, ErrInUse) {
					continue
				}
				if err != nil {
					t.Error(err)
					return
				}
				used.Add(1)
				for _, path := range []string{disk, volume, filepath.Join(volume, "one")} {
					w.want(path, mine)
				}
				if _, err := j.Restore(t.Context(), sandbox); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	group.Wait()
	t.Logf("used %d times of 320", used.Load())
	w.want(disk, oldOne)
	w.want(volume, oldOne)
	w.want(filepath.Join(volume, "one"), oldTwo)
	w.wantEmpty()
}

func TestReplayKeepsLivingSandboxes(t *testing.T) {
	w := newWorld(t)
	disk := w.file("disk", oldOne)
	w.apply(w.open(1), "ns/a", item(t, disk, guestA))
	if done, err := w.open(2).Replay(t.Context()); err != nil || len(done) != 0 {
		t.Errorf("Replay = %v, %v, want nothing", done, err)
	}
	w.want(disk, guestA)
	w.label(disk, oldTwo) // somebody's restorecon
	report := w.restore(w.open(1), "ns/a")
	if len(report.Left) != 1 || !strings.Contains(report.Left[0], oldTwo) {
		t.Errorf("Restore left %v, want the file whose label was changed since", report.Left)
	}
	w.want(disk, oldTwo)
	w.wantEmpty()
}

// TestReplayBesideANewStart has a dead sandbox be restored and started anew by another process
// while Replay is between its look at the dead owner and the restore.
func TestReplayBesideANewStart(t *testing.T) {
	w := newWorld(t)
	disk := w.file("disk", oldOne)
	w.apply(w.open(1), "ns/a", item(t, disk, guestA))
	w.dead[1] = true
	slow, other := w.open(2), w.open(3)
	slow.options.Carried = func(context.Context, labels.Level) (bool, error) {
		w.restore(other, "ns/a")
		w.apply(other, "ns/a", item(t, disk, guestB))
		return false, nil
	}
	if _, err := slow.Replay(t.Context()); err != nil {
		t.Error(err)
	}
	w.want(disk, guestB)
	if pending, err := slow.Pending("ns/a"); err != nil || !pending {
		t.Errorf("Pending = %v, %v, want true: the new sandbox holds the disk", pending, err)
	}
	w.restore(other, "ns/a")
	w.want(disk, oldOne)
	w.wantEmpty()
}

// TestRestoreOfAPathThroughAFile has the owner of a volume's parent put a file in its place.
func TestRestoreOfAPathThroughAFile(t *testing.T) {
	w := newWorld(t)
	disk := w.file("data/disk", oldOne)
	w.apply(w.open(1), "ns/a", item(t, disk, guestA))
	if err := os.RemoveAll(filepath.Dir(disk)); err != nil {
		t.Fatal(err)
	}
	w.file("data", "")
	if report := w.restore(w.open(1), "ns/a"); len(report.Left) != 1 {
		t.Errorf("Restore left %v, want the disk", report.Left)
	}
	w.wantEmpty()
}

// TestRestoreOfADeepTree shows that a guest cannot keep its level by making folders.
func TestRestoreOfADeepTree(t *testing.T) {
	w := newWorld(t)
	j := w.open(1)
	top, _ := w.makeTree()
	tree := item(t, top, guestA)
	tree.Recursive = true
	w.apply(j, "ns/a", tree)
	at, err := unix.Open(top, unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	for range maxDepth + 10 {
		if err := unix.Mkdirat(at, "d", 0o700); err != nil {
			t.Fatal(err)
		}
		next, err := unix.Openat(at, "d", unix.O_DIRECTORY, 0)
		if err := errors.Join(err, unix.Close(at)); err != nil {
			t.Fatal(err)
		}
		at = next
	}
	_ = unix.Close(at)
	if report := w.restore(j, "ns/a"); len(report.Left) != 1 || !strings.Contains(report.Left[0], "deep") {
		t.Errorf("Restore left %d, want the folders that are too deep", len(report.Left))
	}
	w.want(filepath.Join(top, "plain"), oldOne)
	w.wantEmpty()
	if _, err := j.Apply(t.Context(), "ns/a", labels.Level{}, []Item{tree}); !errors.Is(err, ErrRefused) {
		t.Errorf("Apply to a tree that is too deep = %v, want %v", err, ErrRefused)
	}
	w.wantEmpty()
}

// TestBlockDevice labels a loop device as it would a logical volume, and no whole disk.
func TestBlockDevice(t *testing.T) {
	w := newWorld(t)
	disk := w.file("disk", oldOne)
	if err := os.Truncate(disk, 1<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.CommandContext(t.Context(), testenv.NeedTool(t, "losetup"), "--find", "--show", disk).Output()
	if err != nil {
		testenv.Need(t, testenv.Root, "no loop device: "+err.Error())
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		_ = exec.CommandContext(context.WithoutCancel(t.Context()), "losetup", "--detach", device).Run()
	})
	w.label(device, oldTwo)
	link := filepath.Join("/dev", "cloister-test-"+filepath.Base(w.dir)+"-link")
	if err := os.Symlink(device, link); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.Remove(link) })
	j := w.open(1)
	for _, path := range []string{device, link} {
		if report := w.apply(j, "ns/a", item(t, path, guestA)); len(report.Unlabelled) > 0 {
			t.Errorf("Apply(%s) = %+v, want the device labelled", path, report)
		}
		w.want(device, guestA)
		w.want(disk, oldOne)
		w.restore(j, "ns/a")
		w.want(device, oldTwo)
		w.wantEmpty()
	}
	for _, to := range []string{disk, "/dev/null"} {
		if err := errors.Join(os.Remove(link), os.Symlink(to, link)); err != nil {
			t.Fatal(err)
		}
		if _, err := j.Apply(t.Context(), "ns/a", labels.Level{}, []Item{item(t, link, guestA)}); !errors.Is(err, ErrRefused) {
			t.Errorf("Apply of a link in /dev to %s = %v, want it refused", to, err)
		}
	}
	whole, err := filepath.Glob("/sys/block/[vs]d*")
	if err != nil || len(whole) == 0 {
		t.Skip("no whole disk here")
	}
	path := "/dev/" + filepath.Base(whole[0])
	if _, err := j.Apply(t.Context(), "ns/a", labels.Level{}, []Item{item(t, path, guestA)}); !errors.Is(err, ErrRefused) ||
		!strings.Contains(err.Error(), "whole disk") {
		t.Errorf("Apply(%s) = %v, want a whole disk refused", path, err)
	}
}

func FuzzReadTree(f *testing.F) {
	f.Add([]byte("a\x00u:r:t:s0\x00b\x00"))
	f.Fuzz(func(_ *testing.T, text []byte) { readTree(text) })
}

func only(t *testing.T, pattern string) string {
	t.Helper()
	found, err := filepath.Glob(pattern)
	if err != nil || len(found) != 1 {
		t.Fatalf("%s = %v, %v, want one", pattern, found, err)
	}
	return found[0]
}

// TestTreeRestoresByInode: while its guest runs, files change their names. Each file gets back the
// label that it had, whatever its name is now, and a new file under an old name gets the folder's.
func TestTreeRestoresByInode(t *testing.T) {
	w := newWorld(t)
	j := w.open(1)
	const special = "system_u:object_r:ssh_home_t:s0"
	top := filepath.Join(w.dir, "volume")
	plain, key, gone := w.file("volume/plain", oldOne), w.file("volume/keys/key", special), w.file("volume/gone", special)
	for _, folder := range []string{top, filepath.Dir(key)} {
		w.label(folder, oldOne)
	}
	outside := w.file("outside", oldTwo)
	tree := item(t, top, guestA)
	tree.Recursive = true
	w.apply(j, "ns/a", tree)

	moved := filepath.Join(top, "moved")
	steps := []error{
		os.Rename(key, moved), os.Rename(plain, key), // the guest's file has the name of another
		os.Remove(gone), os.Symlink(outside, gone), // a link to a file of the host
	}
	if err := errors.Join(steps...); err != nil {
		t.Fatal(err)
	}
	w.label(gone, guestA)
	again := w.file("volume/again", guestA)
	if err := errors.Join(os.Remove(again), os.WriteFile(again, nil, 0o600)); err != nil { // may have the inode of the file before
		t.Fatal(err)
	}
	w.label(again, guestA)

	w.restore(j, "ns/a")
	w.want(moved, special)
	w.want(key, oldOne)
	w.want(gone, oldOne)
	w.want(again, oldOne)
	w.want(outside, oldTwo)
	w.wantEmpty()
}

// TestTreeOfAnEarlierVersion: a log that names files by path is restored as it was written.
func TestTreeOfAnEarlierVersion(t *testing.T) {
	c := child{rel: "a/b", id: identity{Inode: 5, Birth: 7}}
	old := readTree([]byte("a/b\x00" + oldTwo + "\x00"))
	if got, known := c.before(old); !known || got != oldTwo {
		t.Errorf("before = %q, %t", got, known)
	}
	now := readTree([]byte(c.key() + "\x00" + oldOne + "\x00"))
	if got, known := (child{rel: "a/c", id: c.id}).before(now); !known || got != oldOne {
		t.Errorf("before of a renamed file = %q, %t", got, known)
	}
	if got, known := (child{rel: "a/b", id: identity{Inode: 5, Birth: 8}}).before(now); known {
		t.Errorf("before of a new file with the inode of another = %q", got)
	}
}
