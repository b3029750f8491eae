// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/machine/served"
	"cloister/tests/testenv"
)

// host is a served folder as a sandbox has it, and what is beside it.
type host struct {
	dir    string
	view   string // served: a read-only tmpfs with two mounts in it
	volume string // mounted at rw, and read-only at ro
	guest  *guest
	server *served.Server
}

// newTree makes the folders; nobody serves them.
func newTree(t *testing.T) *host {
	t.Helper()
	testenv.NeedRoot(t)
	h := &host{dir: t.TempDir()}
	h.view, h.volume = filepath.Join(h.dir, "view"), filepath.Join(h.dir, "volume")
	for _, d := range []string{h.view, h.volume} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.write(t, "secret", "secret")
	h.write(t, "volume/file", "data")
	served.Mount(t, "tmpfs", h.view, "tmpfs", unix.MS_NODEV|unix.MS_NOSUID, "mode=755")
	served.Mount(t, "", h.view, "", unix.MS_SHARED, "")
	for _, d := range []string{"a", "a/rw", "b", "b/ro"} {
		if err := os.Mkdir(filepath.Join(h.view, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	const restricted = unix.MS_NODEV | unix.MS_NOSUID
	served.Mount(t, h.volume, filepath.Join(h.view, "a/rw"), "", unix.MS_BIND, "")
	served.Mount(t, "", filepath.Join(h.view, "a/rw"), "", unix.MS_REMOUNT|unix.MS_BIND|restricted, "")
	served.Mount(t, h.volume, filepath.Join(h.view, "b/ro"), "", unix.MS_BIND, "")
	served.Mount(t, "", filepath.Join(h.view, "b/ro"), "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|restricted, "")
	served.Mount(t, "", h.view, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|restricted, "")
	return h
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := newTree(t)
	h.server = served.Start(t, h.view)
	f, err := connect(h.server.Socket())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.close)
	h.guest = &guest{front: f, ended: h.server.Done()}
	if err := h.guest.begin(); err != nil {
		t.Fatal(err)
	}
	h.server.Leave(t)
	return h
}

func (h *host) write(t *testing.T, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(h.dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// folder gives the node of a folder two levels down.
func (h *host) folder(t *testing.T, first, second string) uint64 {
	t.Helper()
	id, err := h.guest.lookup(top, first)
	if err == nil {
		id, err = h.guest.lookup(id, second)
	}
	if err != nil {
		t.Fatalf("lookup %s/%s: %v", first, second, err)
	}
	return id
}

// TestAllowedOperationsWork is the control of all others: what the guest may do works.
func TestAllowedOperationsWork(t *testing.T) {
	h := newHost(t)
	rw := h.folder(t, "a", "rw")
	id, err := h.guest.lookup(rw, "file")
	if err != nil {
		t.Fatal(err)
	}
	fh, err := h.guest.open(id, unix.O_RDWR)
	if err != nil {
		t.Fatal(err)
	}
	if err := h.guest.write(id, fh, "more"); err != nil {
		t.Error(err)
	}
	if got, err := h.guest.read(id, fh); got != "more" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := h.guest.create(rw, "new", 0o644); err != nil {
		t.Error(err)
	}
	if err := h.guest.rename(rw, "new", rw, "file", unix.RENAME_EXCHANGE); err != nil {
		t.Error(err)
	}
}

// TestRawNames sends names that a guest's kernel never sends. Each must fail, or end the server,
// and nothing beside the served folder may change (CVE-2026-47243).
func TestRawNames(t *testing.T) {
	h := newHost(t)
	rw := h.folder(t, "a", "rw")
	file, err := h.guest.lookup(rw, "file")
	if err != nil {
		t.Fatal(err)
	}
	outside := []string{
		"../secret", "../../secret", "../../../../../../../../etc/passwd", "/etc/passwd", filepath.Join(h.dir, "secret"),
		"file/../../secret", "./../secret", "..\x00", "/", "a/b", "..",
	}
	operations := map[string]func(name string) error{
		"lookup":  func(n string) error { _, err := h.guest.lookup(rw, n); return err },
		"create":  func(n string) error { _, err := h.guest.create(rw, n, 0o644); return err },
		"mkdir":   func(n string) error { _, err := h.guest.mkdir(rw, n); return err },
		"mknod":   func(n string) error { _, err := h.guest.mknod(rw, n, unix.S_IFREG|0o644, 0); return err },
		"symlink": func(n string) error { _, err := h.guest.symlink(rw, n, "x"); return err },
		"link":    func(n string) error { _, err := h.guest.link(file, rw, n); return err },
		"unlink":  func(n string) error { return h.guest.unlink(rw, n) },
		"rename":  func(n string) error { return h.guest.rename(rw, "file", rw, n, 0) },
	}
	for operation, do := range operations {
		if operation != "lookup" && operation != "unlink" && operation != "rename" {
			if err := do("plain-" + operation); err != nil {
				t.Errorf("%s of a plain name: %v: the attack shows nothing", operation, err)
			}
		}
		for _, n := range outside {
			inTree := operation == "lookup" && strings.Trim(n, ".\x00") == "" // the parent folder, as NFS exports ask
			if err := do(n); err == nil && !inTree {
				t.Errorf("%s of %q succeeds", operation, n)
			}
		}
	}
	h.unharmed(t)
}

// unharmed looks at what is beside the served folder.
func (h *host) unharmed(t *testing.T) {
	t.Helper()
	if text, err := os.ReadFile(filepath.Join(h.dir, "secret")); err != nil || string(text) != "secret" {
		t.Errorf("the file beside the share is %q, %v", text, err)
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil || len(entries) != 3 {
		t.Errorf("beside the share: %v, %v, want secret, view and volume", entries, err)
	}
}

// TestDotDot goes up from the top of the share and of a mount in it, one step at a time.
func TestDotDot(t *testing.T) {
	h := newHost(t)
	id := h.folder(t, "a", "rw")
	for range 8 {
		var err error
		if id, err = h.guest.lookup(id, ".."); err != nil {
			break
		}
		for _, name := range []string{"secret", "etc", "proc"} {
			if _, err := h.guest.lookup(id, name); err == nil {
				t.Errorf("%q is found above a mount", name)
			}
		}
	}
	if _, err := h.guest.lookup(h.folder(t, "a", "rw"), "file"); err != nil {
		t.Errorf("the server after it: %v", err)
	}
}

// TestForgedNodes names nodes and handles that nobody was given.
func TestForgedNodes(t *testing.T) {
	h := newHost(t)
	rw := h.folder(t, "a", "rw")
	file, err := h.guest.lookup(rw, "file")
	if err != nil {
		t.Fatal(err)
	}
	fh, err := h.guest.open(file, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	for _, id := range []uint64{0, 1 << 20, 1 << 31, 1 << 32, 1<<63 - 1, 1 << 63, ^uint64(0), 0xdeadbeef} {
		if _, err := h.guest.call(opGetattr, id, words(0, 0), u64(0)); err == nil {
			t.Errorf("getattr of node %#x succeeds", id)
		}
		if _, err := h.guest.lookup(id, "secret"); err == nil {
			t.Errorf("lookup in node %#x succeeds", id)
		}
		if _, err := h.guest.link(id, rw, "forged"); err == nil {
			t.Errorf("link of node %#x succeeds", id)
		}
		if id == fh {
			continue
		}
		if _, err := h.guest.read(file, id); err == nil {
			t.Errorf("read of handle %#x succeeds", id)
		}
	}
	if got, err := h.guest.read(file, fh); err != nil || got != "data" {
		t.Errorf("a handle that is real reads %q, %v: the attack shows nothing", got, err)
	}
	h.unharmed(t)
}

// TestReadOnlyMount tries to change a volume through its read-only mount, with what the same
// volume's writable one gives.
func TestReadOnlyMount(t *testing.T) {
	h := newHost(t)
	rw, ro := h.folder(t, "a", "rw"), h.folder(t, "b", "ro")
	h.write(t, "volume/only", "fixed")
	for i, folder := range []struct {
		name     string
		id       uint64
		readOnly bool
	}{{"the writable mount", rw, false}, {"the read-only mount", ro, true}} {
		h.write(t, "volume/only", "fixed")
		check := func(what string, err error) {
			t.Helper()
			if (err != nil) != folder.readOnly {
				t.Errorf("%s in %s: %v", what, folder.name, err)
			}
		}
		only, err := h.guest.lookup(folder.id, "only")
		if err != nil {
			t.Fatal(err)
		}
		source, err := h.guest.lookup(rw, "file")
		if err != nil {
			t.Fatal(err)
		}
		from, err := h.guest.open(source, unix.O_RDONLY)
		if err != nil {
			t.Fatal(err)
		}
		_, err = h.guest.link(source, folder.id, fmt.Sprint("linked", i))
		check("link", err)
		_, err = h.guest.create(folder.id, fmt.Sprint("created", i), 0o644)
		check("create", err)
		_, err = h.guest.call(opSetattr, only, words(1, 0), make([]byte, 6*8), words(0, 0, 0, 0o600, 0, 0, 0, 0))
		check("chmod", err)
		_, err = h.guest.call(opSetxattr, only, words(1, 0), name("user.x"), []byte("x"))
		check("setxattr", err)
		_, err = h.guest.open(only, unix.O_RDWR)
		check("open for writing", err)
		to, err := h.guest.open(only, unix.O_RDONLY) // written through a handle that is for reading
		if err != nil {
			t.Fatal(err)
		}
		if err := h.guest.write(only, to, "xx"); err == nil {
			t.Errorf("write by a handle for reading in %s", folder.name)
		}
		if err := h.guest.copyFileRange(source, from, only, to, 2); err == nil {
			t.Errorf("copy_file_range to a handle for reading in %s", folder.name)
		}
		check("rename", h.guest.rename(folder.id, "only", folder.id, "renamed", 0))
		if !folder.readOnly {
			if err := h.guest.rename(rw, "renamed", rw, "only", 0); err != nil {
				t.Error(err)
			}
		}
	}
	// Out of the read-only mount into the writable one: the file would become writable.
	only, err := h.guest.lookup(ro, "only")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := h.guest.link(only, rw, "out"); !errors.Is(err, unix.EXDEV) {
		t.Errorf("link out of the read-only mount = %v, want %v", err, unix.EXDEV)
	}
	if err := h.guest.rename(ro, "only", rw, "out", unix.RENAME_EXCHANGE); err == nil {
		t.Error("exchange out of the read-only mount succeeds")
	}
	if text, err := os.ReadFile(filepath.Join(h.volume, "only")); err != nil || string(text) != "fixed" {
		t.Errorf("the file of the read-only mount is %q, %v", text, err)
	}
}

// TestMountsAreNotMoved exchanges and renames the folders that mounts are on.
func TestMountsAreNotMoved(t *testing.T) {
	h := newHost(t)
	a, err := h.guest.lookup(top, "a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := h.guest.lookup(top, "b")
	if err != nil {
		t.Fatal(err)
	}
	for what, err := range map[string]error{
		"exchange of the parents": h.guest.rename(top, "a", top, "b", unix.RENAME_EXCHANGE),
		"exchange of the mounts":  h.guest.rename(a, "rw", b, "ro", unix.RENAME_EXCHANGE),
		"rename of a parent":      h.guest.rename(top, "a", top, "c", 0),
		"rename of a mount":       h.guest.rename(a, "rw", top, "c", 0),
		"removal of a mount":      func() error { _, err := h.guest.call(opRmdir, a, name("rw")); return err }(),
	} {
		if err == nil {
			t.Errorf("%s succeeds", what)
		}
	}
	if _, err := os.Stat(filepath.Join(h.view, "a/rw/file")); err != nil {
		t.Error(err)
	}
}

// TestDevicesAndSetUIDFiles makes a device node and a set-uid file in a volume as a guest's root
// may. In the share they are inert. At the volume's own path they are what they say, as with runc:
// docs/limitations.md says so.
func TestDevicesAndSetUIDFiles(t *testing.T) {
	h := newHost(t)
	rw := h.folder(t, "a", "rw")
	if _, err := h.guest.mknod(rw, "zero", unix.S_IFCHR|0o666, 0x105); err != nil {
		t.Fatal(err)
	}
	if _, err := h.guest.mknod(rw, "program", unix.S_IFREG|unix.S_ISUID|0o755, 0); err != nil {
		t.Fatal(err)
	}
	shown := filepath.Join(h.view, "a/rw")
	if f, err := os.Open(filepath.Join(shown, "zero")); !errors.Is(err, unix.EACCES) {
		t.Errorf("open of the node in the share = %v, %v, want %v", f, err, unix.EACCES)
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(shown, &fs); err != nil || fs.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags of the share's mount = %#x, %v, want nosuid", fs.Flags, err)
	}
	for name, want := range map[string]uint32{"zero": unix.S_IFCHR | 0o666, "program": unix.S_IFREG | unix.S_ISUID | 0o755} {
		var st unix.Stat_t
		if err := unix.Stat(filepath.Join(h.volume, name), &st); err != nil || st.Mode != want {
			t.Errorf("%s at the volume's path has mode %o, %v, want %o: change docs/limitations.md with it", name, st.Mode, err, want)
		}
	}
}

// TestSetgidIsForTheGuestToStrip asks for set-gid files in a folder of a group that the user is not
// in (CVE-2022-0358), as only a guest's kernel that was taken over does. The server keeps its
// capabilities for that user, so a create gives what root's chmod gives: no more, and inert in the
// share (docs/decisions/0063). Users of a guest get what they get with runc: tests/files,
// sgid.create-foreign.
func TestSetgidIsForTheGuestToStrip(t *testing.T) {
	h := newHost(t)
	const user, group = 1000, 2000
	folder := filepath.Join(h.volume, "team")
	if err := errors.Join(os.Mkdir(folder, 0o755), os.Chown(folder, 0, group), os.Chmod(folder, 0o777|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
	team, err := h.guest.lookup(h.folder(t, "a", "rw"), "team")
	if err != nil {
		t.Fatal(err)
	}
	const mode = unix.S_IFREG | unix.S_ISGID | 0o775
	h.guest.uid, h.guest.gid = user, user
	_, created := h.guest.create(team, "created", mode)
	_, made := h.guest.mknod(team, "made", mode, 0)
	id, plain := h.guest.create(team, "changed", 0o775)
	h.guest.uid, h.guest.gid = 0, 0
	_, changed := h.guest.call(opSetattr, id, words(1, 0), make([]byte, 6*8), words(0, 0, 0, mode, 0, 0, 0, 0))
	if err := errors.Join(created, made, plain, changed); err != nil {
		t.Fatal(err)
	}
	var want unix.Stat_t
	if err := unix.Stat(filepath.Join(folder, "changed"), &want); err != nil || want.Mode != mode || want.Gid != group {
		t.Errorf("what root's chmod has made: mode %o of group %d, %v, want %o of %d", want.Mode, want.Gid, err, mode, group)
	}
	for _, name := range []string{"created", "made"} {
		var got unix.Stat_t
		err := unix.Stat(filepath.Join(folder, name), &got)
		if err != nil || got.Mode&^unix.S_ISGID != want.Mode&^unix.S_ISGID || got.Uid != user || got.Gid != group {
			t.Errorf("%s: mode %o of %d:%d, %v, want %o of %d:%d at most", name, got.Mode, got.Uid, got.Gid, err, want.Mode, user, group)
		}
	}
	var fs unix.Statfs_t
	if err := unix.Statfs(filepath.Join(h.view, "a/rw/team"), &fs); err != nil || fs.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags of the share's mount = %#x, %v, want nosuid", fs.Flags, err)
	}
}
