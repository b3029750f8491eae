// SPDX-License-Identifier: Apache-2.0

package guestimage

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func goodManifest() Manifest {
	sum := strings.Repeat("0f", 32)
	return Manifest{
		Format: 1, Flavour: Distro, Arch: "amd64",
		Kernel: Kernel{Version: "6.1.0-56-cloud-amd64", Format: BzImage, SHA256: sum, Bytes: 10},
		Initrd: Initrd{Compression: "zstd", SHA256: sum, Bytes: 20, UnpackedBytes: 40},
		Agent:  Agent{Version: "v0.0.0-20260101000000-0123456789ab+dirty", Protocol: 1, SHA256: sum},
		Packages: []Package{{
			Kind: "deb", Name: "crun", Version: "1.8.1-1+deb12u1", Licence: "GPL-2+",
			Files: []string{"/usr/bin/crun"},
		}},
		Modules:     []string{"/lib/modules/6.1/virtio.ko"},
		LateModules: []string{},
		Cmdline:     []string{"cryptomgr.notests", "a.b=c"},
		Inputs:      sum,
	}
}

func TestManifestRoundTrip(t *testing.T) {
	want := goodManifest()
	data, err := want.encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseManifest(data)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("ParseManifest(encode(m)): -want +got\n%s", diff)
	}
}

func TestParseManifestRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func(*Manifest)
		want string
	}{
		{"format", func(m *Manifest) { m.Format = 2 }, "format 2"},
		{"flavour", func(m *Manifest) { m.Flavour = "big" }, `"big"`},
		{"kernel format", func(m *Manifest) { m.Kernel.Format = "zImage" }, "zImage"},
		{"digest", func(m *Manifest) { m.Initrd.SHA256 = "abc" }, "initrd"},
		{"size", func(m *Manifest) { m.Kernel.Bytes = 0 }, "size"},
		{"version", func(m *Manifest) { m.Kernel.Version = "6.1\nroot" }, "kernel version"},
		{"long version", func(m *Manifest) { m.Kernel.Version = strings.Repeat("6", 129) }, "kernel version"},
		{"module outside", func(m *Manifest) { m.Modules = []string{"/lib/../../x.ko"} }, "x.ko"},
		{"parameter", func(m *Manifest) { m.Cmdline = []string{"a b"} }, "kernel parameter"},
		{"module line", func(m *Manifest) { m.LateModules = []string{"/a\n/b"} }, "clean absolute"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := goodManifest()
			tt.edit(&m)
			data, err := json.Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			_, err = ParseManifest(data)
			if !errors.Is(err, ErrManifest) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ParseManifest = %v, want ErrManifest with %q", err, tt.want)
			}
		})
	}
	for name, data := range map[string]string{
		"empty": "", "unknown field": `{"format":1,"kernels":{}}`, "trailing": `{}{}`, "long": strings.Repeat(" ", maxManifest+1),
	} {
		if _, err := ParseManifest([]byte(data)); !errors.Is(err, ErrManifest) {
			t.Errorf("ParseManifest(%s) = %v, want ErrManifest", name, err)
		}
	}
}

func FuzzParseManifest(f *testing.F) {
	data, err := goodManifest().encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte(`{"format":1}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := ParseManifest(data)
		if err != nil {
			return
		}
		first, err := m.encode()
		if err != nil {
			t.Fatalf("encode of a parsed manifest: %v", err)
		}
		again, err := ParseManifest(first)
		if err != nil {
			t.Fatalf("parse of an encoded manifest: %v", err)
		}
		second, err := again.encode()
		if err != nil || !bytes.Equal(first, second) {
			t.Fatalf("encode is not stable: %v", err)
		}
	})
}

// TestOpenRemedy: the remedy builds the very image that is missing or damaged.
func TestOpenRemedy(t *testing.T) {
	top := t.TempDir()
	for name, want := range map[string]string{
		"small":  "`cloister guest build --kernel=small --output=" + top + "/small`",
		"distro": "--kernel=distro --output=" + top + "/distro`",
		"mine":   "`cloister guest build --output=" + top + "/mine`",
	} {
		dir := filepath.Join(top, name)
		if _, err := Open(dir); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), want) {
			t.Errorf("Open of nothing: %v, want the remedy %s", err, want)
		}
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, ManifestName), []byte("{"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(dir); !errors.Is(err, ErrManifest) || !strings.Contains(err.Error(), want) {
			t.Errorf("Open of a damaged manifest: %v, want the remedy %s", err, want)
		}
	}
}
