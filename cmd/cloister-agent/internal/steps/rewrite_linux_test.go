// SPDX-License-Identifier: Apache-2.0

package steps

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/tests/testenv"
)

func TestRewriteKeepsChanges(t *testing.T) {
	testenv.NeedRoot(t)
	const sent = "127.0.0.1 localhost\n10.0.0.2 me\n"
	const later = "127.0.0.1 localhost\n10.0.0.2 me\n10.1.0.2 me\n"
	for _, tt := range []struct{ name, have, data, want string }{
		{"not changed", sent, later, later},
		{"appended", sent + "10.9.9.9 mine\n", later, later + "10.9.9.9 mine\n"},
		{"appended without a newline", sent + "10.9.9.9 mine", later, later + "10.9.9.9 mine\n"},
		{
			"appended, and the engine takes a line away", sent + "10.9.9.9 mine\n", "127.0.0.1 localhost\n",
			"127.0.0.1 localhost\n10.9.9.9 mine\n",
		},
		{"a line removed", "10.0.0.2 me\n", later, "10.0.0.2 me\n10.1.0.2 me\n"},
		{"a line replaced", "127.0.0.1 localhost\n10.0.0.3 me\n", later, "127.0.0.1 localhost\n10.1.0.2 me\n10.0.0.3 me\n"},
		{"both appended the same", sent + "10.1.0.2 me\n", later, later},
		{"emptied", "", later, "10.1.0.2 me\n"},
		{"shorter", sent, "127.0.0.1 localhost\n", "127.0.0.1 localhost\n"},
	} {
		dir := t.TempDir()
		if err := WriteFile(dir, "files/0", []byte(sent), 0o644, 0, 0); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, "files/0")
		before, err := os.Stat(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(tt.have), 0); err != nil {
			t.Fatal(err)
		}
		if err := RewriteFile(dir, "files/0", []byte(sent), []byte(tt.data)); err != nil {
			t.Errorf("%s: %v", tt.name, err)
		}
		got, err := os.ReadFile(file)
		if err != nil || string(got) != tt.want {
			t.Errorf("%s: the file has %q, %v, want %q", tt.name, got, err, tt.want)
		}
		if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
			t.Errorf("%s: it is another file, %v", tt.name, err)
		}
	}
}

func TestRewriteOfAHugeFile(t *testing.T) {
	testenv.NeedRoot(t)
	dir := t.TempDir()
	if err := WriteFile(dir, "f", nil, 0o644, 0, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(filepath.Join(dir, "f"), 1<<40); err != nil {
		t.Fatal(err)
	}
	if err := RewriteFile(dir, "f", nil, []byte("x\n")); !errors.Is(err, errdefs.ErrFailedPrecondition) {
		t.Errorf("RewriteFile = %v, want %v", err, errdefs.ErrFailedPrecondition)
	}
}
