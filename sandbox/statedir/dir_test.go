// SPDX-License-Identifier: Apache-2.0

package statedir

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"

	"cloister/sys"
)

func TestParseID(t *testing.T) {
	for _, tt := range []struct {
		in string
		ok bool
	}{
		{"a", true},
		{"default", true},
		{"k8s.io", true},
		{"A-b_c.9", true},
		{strings.Repeat("a", 76), true},
		{strings.Repeat("a", 77), false},
		{"", false},
		{".", false},
		{"..", false},
		{"a..b", false},
		{".a", false},
		{"a.", false},
		{"a/b", false},
		{"/a", false},
		{"a b", false},
		{"a\x00", false},
		{"ä", false},
		{"a--b", false},
	} {
		id, err := ParseID(tt.in)
		if (err == nil) != tt.ok || tt.ok && string(id) != tt.in || !tt.ok && !errors.Is(err, errdefs.ErrInvalidArgument) {
			t.Errorf("ParseID(%q) = %q, %v, want ok %v", tt.in, id, err, tt.ok)
		}
	}
}

func FuzzParseID(f *testing.F) {
	f.Add("k8s.io")
	f.Add("../x")
	f.Fuzz(func(t *testing.T, s string) {
		id, err := ParseID(s)
		if err == nil && (filepath.Base(string(id)) != s || !filepath.IsLocal(s) || s == ".") {
			t.Errorf("ParseID(%q) is not a file name", s)
		}
	})
}

func TestNew(t *testing.T) {
	if _, err := New("run", "default", "a"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("New with a relative folder: %v", err)
	}
	if _, err := New("/run", "../x", "a"); !errors.Is(err, errdefs.ErrInvalidArgument) {
		t.Errorf("New with a bad namespace: %v", err)
	}
	d, err := New("/run/cloister", "default", "a")
	if err != nil || d != "/run/cloister/default/a" || d.ID() != "a" || d.Namespace() != "default" {
		t.Errorf("New = %q, %v", d, err)
	}
	if got, want := d.Log(sys.Process{PID: 7}, Console), "/proc/7/root/run/cloister/default/a/own/console.log"; got != want {
		t.Errorf("Log = %q, want %q", got, want)
	}
}

func TestListMake(t *testing.T) {
	state := filepath.Join(t.TempDir(), "state")
	if got, err := List(state); err != nil || len(got) != 0 {
		t.Errorf("List of nothing = %v, %v", got, err)
	}
	d, err := New(state, "default", "a")
	if err != nil {
		t.Fatal(err)
	}
	if err := d.Make(); err != nil {
		t.Fatal(err)
	}
	if err := d.Make(); !errors.Is(err, errdefs.ErrAlreadyExists) {
		t.Errorf("second Make: %v, want ErrAlreadyExists", err)
	}
	if fi, err := os.Stat(string(d)); err != nil || fi.Mode().Perm() != 0o700 {
		t.Errorf("folder %v, %v, want 0700", fi, err)
	}
	if err := os.WriteFile(filepath.Join(state, "stray"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if got, err := List(state); err != nil || len(got) != 1 || got[0] != d {
		t.Errorf("List = %v, %v, want %v", got, err, d)
	}
}
