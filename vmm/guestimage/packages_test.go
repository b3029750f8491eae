// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// write makes files below a folder.
func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, data := range files {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, []byte(data), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestDebs(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"var/lib/dpkg/status": "Package: libx1\nStatus: install ok installed\nVersion: " +
			"1.2-3\nDescription: x\n more\n\nPackage: crun\nVersion: 1.8\n",
		"var/lib/dpkg/info/libx1:amd64.list": "/.\n/lib\n/lib/libx.so.1\n",
		"var/lib/dpkg/info/crun.list":        "/usr/bin/crun\n",
		"usr/share/doc/libx1/copyright": "Format: https://x\n\nFiles: *\nCopyright: me\nLicense: MIT\n " +
			"text\n\nFiles: a\nLicense: GPL-2+\n\nLicense: MIT\n text\n",
		"usr/share/doc/other-unrelated/copyright": "",
	})
	d, err := readDebs(root(dir))
	if err != nil {
		t.Fatal(err)
	}
	got, ok := d.of("/usr/lib/libx.so.1")
	want := Package{Kind: "deb", Name: "libx1", Version: "1.2-3", Licence: "MIT", OtherLicences: []string{"GPL-2+"}}
	if diff := cmp.Diff(want, got); !ok || diff != "" {
		t.Errorf("of(libx): ok %v, -want +got\n%s", ok, diff)
	}
	if got, ok := d.of("/usr/bin/crun"); !ok || got.Licence != unknown || got.Version != "1.8" {
		t.Errorf("of(crun) = %+v, %v, want version 1.8 and an unknown licence", got, ok)
	}
	if _, ok := d.of("/usr/bin/none"); ok {
		t.Error("of(none) found an owner")
	}
	if d, err := readDebs(root(t.TempDir())); err != nil || len(d.version) != 0 {
		t.Errorf("readDebs(empty root) = %v, %v", d, err)
	}
}

func TestDebLicences(t *testing.T) {
	for _, tt := range []struct {
		name, in, want string
		others         []string
	}{
		{
			"free form", "It is at /usr/share/common-licenses/LGPL-2.1.\nAnd `/usr/share/common-licenses/GPL-2'.",
			"LGPL-2.1",
			[]string{"GPL-2"},
		},
		{"no word of it", "All rights reserved.", unknown, nil},
		{"no main part", "Format: x\n\nFiles: a\nLicense: ISC\n", unknown, []string{"ISC"}},
	} {
		got, others := debLicences([]byte(tt.in))
		if got != tt.want || !cmp.Equal(others, tt.others) {
			t.Errorf("%s: debLicences = %q, %q, want %q, %q", tt.name, got, others, tt.want, tt.others)
		}
	}
}

func TestLicenceOf(t *testing.T) {
	for text, want := range map[string]string{
		"  Apache License\n  Version 2.0, January 2004": "Apache-2.0",
		"Permission is hereby granted, free of charge":  "MIT",
		"Do as you like.": unknown,
	} {
		if got := licenceOf(text); got != want {
			t.Errorf("licenceOf(%q) = %q, want %q", text, got, want)
		}
	}
}

func FuzzDebLicences(f *testing.F) {
	f.Add([]byte("Format: x\n\nFiles: *\nLicense: ISC\n"))
	f.Add([]byte("see /usr/share/common-licenses/GPL"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if licence, _ := debLicences(data); licence == "" {
			t.Error("an empty licence")
		}
	})
}
