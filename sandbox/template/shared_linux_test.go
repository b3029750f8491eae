// SPDX-License-Identifier: Apache-2.0

package template

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// shared gives a store's template's shared memory.
func shared(t *testing.T, s Store) *Shared {
	t.Helper()
	got, err := s.Open(key())
	if err != nil {
		t.Fatal(err)
	}
	h, err := s.Share(got, unlabelled)
	if err = errors.Join(err, got.Close()); err != nil {
		t.Fatal(err)
	}
	return h
}

func unlabelled(*os.File) error { return nil }

// inode tells one memory from another.
func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	s, err := look(f)
	if err != nil {
		t.Fatal(err)
	}
	return s.Inode
}

// TestSharedMemoryIsOneFile: starts from one template have one file, as long as one of them has it.
// It is the saved memory, and nobody can change it.
func TestSharedMemoryIsOneFile(t *testing.T) {
	s := store(t)
	saved := memory(t, 1, 5)
	build(t, s, key(), saved)
	first := shared(t, s)
	second := shared(t, s)
	if inode(t, first.File) != inode(t, second.File) {
		t.Error("two starts have two files")
	}
	if err := first.Close(); err != nil {
		t.Fatal(err)
	}
	third := shared(t, s)
	if inode(t, third.File) != inode(t, second.File) {
		t.Error("the file is lost with its maker")
	}
	want, got := make([]byte, 8<<20), make([]byte, 8<<20)
	if _, err := saved.ReadAt(want, 0); err != nil {
		t.Fatal(err)
	}
	if _, err := third.File.ReadAt(got, 0); err != nil || !bytes.Equal(got, want) {
		t.Errorf("the shared memory is not the saved one: %v", err)
	}
	// As QEMU opens it.
	w, err := os.OpenFile(fdName(third.File), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close() // nothing was written
	if _, err := w.WriteAt([]byte{1}, 0); !errors.Is(err, unix.EPERM) {
		t.Errorf("write = %v, want EPERM", err)
	}
	const hole = unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE
	if err := unix.Fallocate(int(w.Fd()), hole, 0, pageBytes); !errors.Is(err, unix.EPERM) {
		t.Errorf("a hole = %v, want EPERM", err)
	}
	if err := w.Truncate(0); !errors.Is(err, unix.EPERM) {
		t.Errorf("truncate = %v, want EPERM", err)
	}
	if _, err := unix.Mmap(int(w.Fd()), 0, pageBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED); !errors.Is(err, unix.EPERM) {
		t.Errorf("a shared writable mapping = %v, want EPERM", err)
	}
	if err := errors.Join(second.Close(), third.Close()); err != nil {
		t.Error(err)
	}
	if left, err := filepath.Glob(s.path(sharedPrefix + "*")); err != nil || len(left) != 0 {
		t.Errorf("folders of notes are left: %v, %v", left, err)
	}
}

func fdName(f *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", f.Fd()) }

// move changes a note.
func move(t *testing.T, name string, change func(*note)) {
	t.Helper()
	data, err := os.ReadFile(name)
	var n note
	if err = errors.Join(err, json.Unmarshal(data, &n)); err != nil {
		t.Fatal(err)
	}
	change(&n)
	if data, err = json.Marshal(n); err == nil {
		err = os.WriteFile(name, data, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// TestSharedMemoryOfAnotherIsNotTaken: a note whose file is not what was noted, is not sealed, or
// is of another template's memory leads to a file of one's own, and goes.
func TestSharedMemoryOfAnotherIsNotTaken(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, h *Shared){
		"a process that has ended": func(t *testing.T, h *Shared) {
			t.Helper()
			move(t, h.note, func(n *note) { n.PID = 1 << 30 })
		},
		"another file": func(t *testing.T, h *Shared) {
			t.Helper()
			r, w, err := os.Pipe() // opening one end again would wait
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = errors.Join(r.Close(), w.Close()) })
			move(t, h.note, func(n *note) { n.FD = int(r.Fd()) })
		},
		"an unsealed file": func(t *testing.T, h *Shared) {
			t.Helper()
			f, err := NewMemory(8)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = f.Close() })
			now, err := look(f)
			if err != nil {
				t.Fatal(err)
			}
			move(t, h.note, func(n *note) {
				sum := n.Seen.SHA256
				n.FD, n.Seen = int(f.Fd()), now
				n.Seen.SHA256 = sum
			})
		},
		"another template": func(t *testing.T, h *Shared) {
			t.Helper()
			move(t, h.note, func(n *note) { n.Seen.SHA256 = "other" })
		},
		"no note": func(t *testing.T, h *Shared) {
			t.Helper()
			if err := os.WriteFile(h.note, []byte("{"), 0o600); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := store(t)
			build(t, s, key(), memory(t, 1))
			first := shared(t, s)
			spoil(t, first)
			second := shared(t, s)
			if inode(t, first.File) == inode(t, second.File) {
				t.Error("the file was taken")
			}
			if err := CheckSeals(second.File); err != nil {
				t.Error(err)
			}
			if _, err := os.Lstat(first.note); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("the note is still there: %v", err)
			}
			if err := errors.Join(first.Close(), second.Close()); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestRebuiltTemplateIsNotTheSharedOne: what sandboxes of a template that was replaced have mapped
// is not given to those of the new one.
func TestRebuiltTemplateIsNotTheSharedOne(t *testing.T) {
	s := store(t)
	build(t, s, key(), memory(t, 1))
	old := shared(t, s)
	build(t, s, key(), memory(t, 2))
	now := shared(t, s)
	if inode(t, old.File) == inode(t, now.File) {
		t.Error("the memory of the template before was taken")
	}
	if err := errors.Join(old.Close(), now.Close()); err != nil {
		t.Error(err)
	}
}
