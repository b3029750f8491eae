// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"errors"
	"os"
	"path"
	"path/filepath"
	"testing"

	"cloister/tests/testenv"
)

// foreignRoot copies a program and what it needs into a folder, the way a
// distribution lays it out: versioned files, links by soname.
func foreignRoot(t *testing.T, program string) (root, []library) {
	t.Helper()
	libs, err := closure("/", program)
	if err != nil {
		t.Fatal(err)
	}
	if len(libs) < 2 {
		t.Skipf("%s needs %d libraries: no test for a static program", program, len(libs))
	}
	dir := t.TempDir()
	for _, l := range append([]library{{asked: program, real: program}}, libs...) {
		data, err := os.ReadFile(l.real)
		if err != nil {
			t.Fatal(err)
		}
		versioned := l.asked + ".v1"
		write(t, dir, map[string]string{versioned: string(data)})
		if err := os.Symlink(versioned, filepath.Join(dir, l.asked)); err != nil {
			t.Fatal(err)
		}
	}
	return root(dir), libs
}

func TestClosureInForeignRoot(t *testing.T) {
	sh := testenv.NeedTool(t, "tar")
	r, want := foreignRoot(t, sh)
	got, err := closure(r, sh)
	if err != nil {
		t.Fatal(err)
	}
	if len(got) != len(want) {
		t.Fatalf("closure has %d libraries, want %d", len(got), len(want))
	}
	for i, l := range got {
		if l.name != want[i].name || l.real != l.asked+".v1" {
			t.Errorf("library %d = %+v, want %s by way of its link", i, l, want[i].name)
		}
	}
	last := got[len(got)-1]
	if err := os.Remove(r.host(last.real)); err != nil {
		t.Fatal(err)
	}
	if _, err := closure(r, sh); !errors.Is(err, ErrLibrary) {
		t.Errorf("closure without %s = %v, want ErrLibrary", path.Base(last.name), err)
	}
}

func TestClosureRefuses(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"script": "#!/bin/sh\n", "short": "\x7fELF\x02\x01\x01"})
	for _, name := range []string{"/script", "/short", "/absent"} {
		if libs, err := closure(root(dir), name); err == nil {
			t.Errorf("closure(%s) = %v, want an error", name, libs)
		}
	}
}
