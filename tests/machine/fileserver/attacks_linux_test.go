// SPDX-License-Identifier: Apache-2.0

package fileserver

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"cloister/tests/machine/served"
)

// host is a served folder as a sandbox has it, and what is beside it.
type host struct {
	dir    string
	view   string // served: a read-only tmpfs with two mounts in it
	volume string // mounted at rw, and read-only at ro
	guest  *guest
	server *served.Server
}

func newHost(t *testing.T) *host {
	t.Helper()
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

func TestFront(t *testing.T) {
	h := newHost(t)
	rw := h.folder(t, "a", "rw")
	id, err := h.guest.lookup(rw, "file")
	if err != nil {
		t.Fatal(err)
	}
	fh, err := h.guest.open(id, unix.O_RDONLY)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := h.guest.read(id, fh); got != "data" {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := h.guest.mknod(rw, "null", unix.S_IFCHR|0o666, 0x103); err != nil {
		t.Error(err)
	}
}
