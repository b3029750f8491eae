// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/machine/served"
	"cloister/tests/testenv"
)

// host is a served folder as a sandbox has it, and what is beside it.
type host struct {
	dir    string
	view   string // served: a read-only tmpfs with two mounts in it
	volume string // mounted at c/rw, and read-only at v/ro
	guest  *guest
	server *served.Server
}

// teamGroup is the group of a folder that hands it on; owner is a user who is not in it.
const (
	teamGroup = 2000
	owner     = 1000
)

// newTree makes the folders; nobody serves them. label is called before anything is mounted
// read-only. A bare tree has the same names on one file system, without a mount and its flags: an
// attack that the mounts alone stop succeeds there.
func newTree(t *testing.T, dir string, bare bool, label func(dir string)) *host {
	t.Helper()
	testenv.NeedRoot(t)
	h := &host{dir: dir, view: filepath.Join(dir, "view"), volume: filepath.Join(dir, "volume")}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	for _, d := range []string{h.view, h.volume} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	h.write(t, "secret", "secret")
	var restricted uintptr = unix.MS_NODEV | unix.MS_NOSUID
	if bare {
		restricted = 0
	}
	served.Mount(t, "tmpfs", h.view, "tmpfs", restricted, "mode=755")
	served.Mount(t, "", h.view, "", unix.MS_SHARED, "")
	for _, d := range []string{"c", "c/rw", "v", "v/ro"} {
		if err := os.Mkdir(filepath.Join(h.view, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if bare {
		h.fill(t, "view/c/rw")
		h.fill(t, "view/v/ro")
		label(h.view)
		return h
	}
	h.fill(t, "volume")
	label(h.view)
	label(h.volume)
	rw, ro := filepath.Join(h.view, "c/rw"), filepath.Join(h.view, "v/ro")
	served.Mount(t, h.volume, rw, "", unix.MS_BIND, "")
	served.Mount(t, "", rw, "", unix.MS_REMOUNT|unix.MS_BIND|restricted, "")
	served.Mount(t, h.volume, ro, "", unix.MS_BIND, "")
	served.Mount(t, "", ro, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|restricted, "")
	served.Mount(t, "", h.view, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY|restricted, "")
	return h
}

// fill makes what a volume has: two files and a folder of another group, which hands it on.
func (h *host) fill(t *testing.T, volume string) {
	t.Helper()
	h.write(t, volume+"/file", "data")
	h.write(t, volume+"/only", "fixed")
	team := filepath.Join(h.dir, volume, "team")
	if err := errors.Join(os.Mkdir(team, 0o755), os.Chown(team, 0, teamGroup), os.Chmod(team, 0o777|os.ModeSetgid)); err != nil {
		t.Fatal(err)
	}
}

func newHost(t *testing.T) *host {
	t.Helper()
	h := newTree(t, filepath.Join(t.TempDir(), "tree"), false, func(string) {})
	h.server = served.Start(t, h.view)
	f, err := connect(h.server.Socket(), nil)
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
	id, err := h.guest.find(first, second)
	if err != nil {
		t.Fatalf("lookup %s/%s: %v", first, second, err)
	}
	return id
}

// unharmed looks at what is beside the served folder.
func (h *host) unharmed() error {
	if text, err := os.ReadFile(filepath.Join(h.dir, "secret")); err != nil || string(text) != "secret" {
		return fmt.Errorf("the file beside the share is %q, %w", text, err)
	}
	entries, err := os.ReadDir(h.dir)
	if err != nil || len(entries) != 3 {
		return fmt.Errorf("beside the share: %v, %w, want secret, view and volume", entries, err)
	}
	return nil
}

// TestAllowedOperationsWork is the control of all others: what the guest may do works.
func TestAllowedOperationsWork(t *testing.T) {
	h := newHost(t)
	rw := h.folder(t, "c", "rw")
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

// TestDevicesAndSetUIDFiles makes a device node and a set-uid file in a volume as a guest's root
// may. In the share they are inert. At the volume's own path they are what they say, as with runc:
// docs/limitations.md says so.
func TestDevicesAndSetUIDFiles(t *testing.T) {
	h := newHost(t)
	rw := h.folder(t, "c", "rw")
	if _, err := h.guest.mknod(rw, "zero", unix.S_IFCHR|0o666, 0x105); err != nil {
		t.Fatal(err)
	}
	if _, err := h.guest.mknod(rw, "program", unix.S_IFREG|unix.S_ISUID|0o755, 0); err != nil {
		t.Fatal(err)
	}
	shown := filepath.Join(h.view, "c/rw")
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
	const user, group = owner, teamGroup
	folder := filepath.Join(h.volume, "team")
	team, err := h.guest.lookup(h.folder(t, "c", "rw"), "team")
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
	if err := unix.Statfs(filepath.Join(h.view, "c/rw/team"), &fs); err != nil || fs.Flags&unix.ST_NOSUID == 0 {
		t.Errorf("flags of the share's mount = %#x, %v, want nosuid", fs.Flags, err)
	}
}
